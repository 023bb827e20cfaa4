"""The server enclave of a finished split job answers one site's texts, of which it sees only cut
activations.

    server -> site   ask        what the last ones were answered with, if there were any
    site -> server   questions  activations of texts
                     enough     no more

For ``causal-lm`` an answer is the next token, and the site asks again with the longer text.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from sealtune.enclave.events import Emit
from sealtune.enclave.sealed_state import SealedState
from sealtune.enclave.server_program import ServerProgram
from sealtune.enclave.site_link import SiteLink
from sealtune.enclave.split_progress import read_progress
from sealtune.enclave.top_trainer import TopTrainer
from sealtune.enclave.trust import Trust
from sealtune.enclave.upload import upload_head
from sealtune.errors import ChannelError, DataError, SiteLostError, StorageError
from sealtune.frames import Frame
from sealtune.job.resolved import Resolved
from sealtune.model.activations import unpack
from sealtune.model.cut_chunk import CHUNK, Chunk, Layout, read_chunk
from sealtune.model.cut_task import Contents, Sample

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


class SplitAnswers(ServerProgram):
    """Answers one site, then ends.

    Args:
        resolved: the finished job.
        trust: for each site, own evidence and what is accepted of it.
        state: where the last checkpoint is.
        layout: what the job's samples look like.
        emit: gets progress events.
        site: who may ask.

    Raises:
        StorageError: there is no finished training.
    """

    def __init__(
        self,
        resolved: Resolved,
        trust: Mapping[str, Trust],
        state: SealedState,
        layout: Layout,
        emit: Emit,
        *,
        site: str,
    ) -> None:
        if site not in trust:
            raise DataError(f"there is no site '{site}'; the job has {', '.join(trust)}")
        job_id = bytes.fromhex(resolved.job_id)
        super().__init__(
            resolved,
            {site: SiteLink(site, job_id, trust[site], emit)},
            answer_limit=2 * CHUNK + layout.max_tokens * layout.token_bytes,
        )
        checkpoint = state.load()
        if checkpoint is None or checkpoint.round < resolved.job.job.rounds:
            raise StorageError(
                "the run has not finished its training", hint="continue it with --resume"
            )
        self._site = site
        self._head = upload_head(resolved)
        self._layout = question_layout(layout)
        self._asked_for = _Asked(self._layout)
        self._top = TopTrainer(resolved, self._asked_for, emit)
        self._top.begin((), read_progress(checkpoint)[1])
        self._answers = b""
        self._turn = 0
        self._enough = False

    def next(self) -> dict[str, bytes] | None:
        """See ``ServerProgram``.

        Raises:
            SiteLostError: the site is gone, or was refused.
        """
        self._settle()
        if self._enough:
            return None
        if self._entries[self._site].reason:
            raise SiteLostError(
                f"{self._site}: {self._entries[self._site].reason}",
                hint="ask again; if it stays so, versions of sealtune or the model may differ",
            )
        question = Frame("ask", {"round": self._turn}, self._answers)
        return self._send({self._site: question}, self._turn)

    def _read_answer(self, site: str, answer: Frame) -> Callable[[], None]:
        if answer.kind == "enough":
            return self._close
        if answer.kind != "questions":
            raise ChannelError(f"answered with {answer.kind[:40]!r}")
        if any(answer.meta.get(key) != value for key, value in self._head.items()):
            raise DataError("the questions were made with another model, cut or form")
        chunk = read_chunk(answer.meta, memoryview(answer.body), self._layout)
        self._layout.check(chunk)
        if len(chunk.lengths) > _MOST:
            raise DataError(f"more than {_MOST} texts in one message")
        scores = self._top.answer(self._asked_for.take(site, chunk))
        return partial(self._reply, np.asarray(scores, dtype="<f4").tobytes())

    def _reply(self, answers: bytes) -> None:
        self._answers = answers
        self._turn += 1

    def _close(self) -> None:
        self._enough = True
