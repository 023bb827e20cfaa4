"""The server enclave of a finished split job answers one site's texts, of which it sees only cut
activations.

For ``causal-lm`` an answer is the next token, and the site asks again with the longer text.

Trust domain: server enclave.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import numpy as np

from sealtune.errors import ChannelError, DataError, SiteLostError, StorageError
from sealtune.frames import Frame
from sealtune.methods.split.messages import upload_head
from sealtune.methods.split.server import SplitState, top_state
from sealtune.methods.split.top_trainer import TopTrainer
from sealtune.model.activations import unpack
from sealtune.model.cut_chunk import CHUNK, Chunk, Layout, layout_of, read_chunk
from sealtune.model.samples import Contents, Sample
from sealtune.party.admit import Admitted
from sealtune.party.checkpoint import CheckpointFile
from sealtune.party.driver import Ask, Program
from sealtune.party.events import Emit
from sealtune.party.history import History
from sealtune.party.outcome import new_outcomes

_MOST = 1024  # texts in one message


def question_layout(layout: Layout) -> Layout:
    """As a job's samples, but of unknown class and without token ids: those stay at the site."""
    return replace(layout, classes=max(1, layout.classes))


class _Asked:
    """The texts of one message, in memory only: a store for ``TopTrainer``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._contents: list[Contents] = []

    def take(self, site: str, chunk: Chunk) -> list[Sample]:
        """Replace what is there by the samples of ``chunk``."""
        self._contents = [
            Contents(unpack(data, self._layout.form, self._layout.width), None)
            for data in chunk.activations
        ]
        return [Sample(site, i, tokens, None) for i, tokens in enumerate(chunk.lengths)]

    def samples(self, site: str, part: Literal["train", "test"]) -> list[Sample]:
        """Nothing is trained or tested on."""
        return []

    def read(self, sample: Sample) -> Contents:
        """One of the texts."""
        return self._contents[sample.number]


class SplitAnswers:
    """Answers one site, then ends.

    Args:
        admitted: the finished job; ``serve`` in its local file says who may ask.
        emit: gets progress events.

    Raises:
        StorageError: there is no finished training.
    """

    def __init__(self, admitted: Admitted, emit: Emit) -> None:
        job_id = bytes.fromhex(admitted.job_id)
        folder, key = admitted.state_folder, admitted.sealing_key
        self.history = History(key, job_id)
        checkpoints = CheckpointFile(folder, key, job_id, SplitState, history=self.history)
        saved = checkpoints.load()
        if saved is None or saved.round < admitted.job.job.rounds:
            raise StorageError(
                "the run has not finished its training", hint="continue it with --resume"
            )
        layout = layout_of(admitted.job, len(admitted.labels))
        self.answer_limit = 2 * CHUNK + layout.max_tokens * layout.token_bytes
        self._site = admitted.local.serve or ""
        self._head = upload_head(admitted)
        self._layout = question_layout(layout)
        self._asked_for = _Asked(self._layout)
        self._top = TopTrainer(admitted, self._asked_for, emit)
        self._top.begin((), top_state(saved))
        self._answers: bytes | None = b""  # to the last texts; None: the site has enough

    def program(self) -> Program:
        """The whole conversation.

        Raises:
            SiteLostError: the site is gone, or was refused.
        """
        outcomes = new_outcomes([self._site])
        for turn in itertools.count():
            if self._answers is None:
                return
            question = Frame("ask", {"round": turn}, self._answers)
            yield Ask({self._site: question}, turn, self._answer, self._take, outcomes)
            if outcomes[self._site].reason:
                raise SiteLostError(
                    f"{self._site}: {outcomes[self._site].reason}",
                    hint="ask again; if it stays so, versions of sealtune or the model may differ",
                )

    def _answer(self, site: str, message: Frame) -> bytes | None:
        if message.kind == "enough":
            return None
        if message.kind != "questions":
            raise ChannelError(f"answered with {message.kind[:40]!r}")
        if any(message.meta.get(key) != value for key, value in self._head.items()):
            raise DataError("the questions were made with another model, cut or form")
        chunk = read_chunk(message.meta, memoryview(message.body), self._layout)
        self._layout.check(chunk)
        if len(chunk.lengths) > _MOST:
            raise DataError(f"more than {_MOST} texts in one message")
        scores = self._top.answer(self._asked_for.take(site, chunk))
        return np.asarray(scores, dtype="<f4").tobytes()

    def _take(self, _site: str, answers: bytes | None) -> None:
        self._answers = answers
