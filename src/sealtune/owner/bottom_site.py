"""A site's data and the bottom of the model: cut activations, chunk by chunk.

Trust domain: data owner.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import DataError, FrameError
from sealtune.frames import Frame
from sealtune.job.training_events import Phase, Repeated, Uploaded, Worked
from sealtune.methods.split.messages import upload_head
from sealtune.model.activations import pack
from sealtune.model.batches import sorted_batches
from sealtune.model.compute import Compute
from sealtune.model.cut_chunk import Chunk, Layout, PartName, chunk_of, chunk_spans, layout_of
from sealtune.model.fit import check_length
from sealtune.model.load import load_config
from sealtune.model.partial import load_part
from sealtune.model.texts import SiteTexts, Texts, join, pad, padded
from sealtune.owner.bottom import Bottom
from sealtune.owner.received import Received, own_copy
from sealtune.party.admit import Admitted
from sealtune.party.events import Emit
from sealtune.tuning.folder import read_fingerprint, write_adapter


class CutMaker:
    """Runs the bottom on texts.

    Args:
        admitted: the job, checked.
        pad_id: token that fills a batch up.
    """

    def __init__(self, admitted: Admitted, pad_id: int) -> None:
        self.layout: Layout = layout_of(admitted.job, len(admitted.labels))
        self._pad_id = pad_id
        self._size = admitted.job.train.eval_batch_size
        self._config = load_config(admitted.job.model)
        self._virtual_tokens = admitted.job.tuning.virtual_tokens
        part = load_part(admitted.job.model, len(admitted.labels) or None, admitted.cut, "bottom")
        self._compute = Compute.open(admitted.device, "fp32")
        self._bottom = Bottom(self._compute.place(part), admitted.cut)

    def chunk(self, part: PartName, texts: Texts, span: range) -> Chunk:
        """The cut activations of the texts in ``span``, in their order, with their labels.

        Raises:
            DataError: the model gives values that are not finite.
        """
        return chunk_of(part, texts, span, self.packed(texts.rows(span)), self.layout)

    def check_length(self, tokens: int) -> None:
        """Raise DataError if the whole model has no place for a text of so many tokens."""
        check_length(
            padded(tokens),
            self._config,
            hint="shorten the text, or ask for fewer tokens",
            virtual_tokens=self._virtual_tokens,
        )

    def packed(self, rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> list[bytes]:
        """The packed cut activations of rows of token ids."""
        packed = [b""] * len(rows)
        for chosen in sorted_batches(list(map(len, rows)), self._size):
            batch = pad([rows[i] for i in chosen], self._pad_id).to(self._compute.device)
            hidden = self._bottom(batch.input_ids, batch.attention_mask).cpu()  # [B, T, D]
            for place, i in enumerate(chosen):
                packed[i] = pack(hidden[place, : len(rows[i])], self.layout.form)
        return packed


class BottomSite:
    """Answers the server enclave during a run.

    upload {"round", "chunk"}  -> chunk
    finish {"round", "part"}   -> received; the adapter, where it was released, is written

    Args:
        admitted: the job, checked.
        emit: gets progress events.
    """

    def __init__(self, admitted: Admitted, emit: Emit) -> None:
        data: SiteTexts = admitted.holdings.texts
        self._head = upload_head(admitted)
        self._maker = CutMaker(admitted, data.train.pad_id)
        self._folder = admitted.adapter_folder
        self._emit = emit
        self._admitted = admitted
        self._sent: set[int] = set()
        self._received = Received()
        parts: tuple[tuple[PartName, Texts], ...] = (("train", data.train), ("test", data.test))
        if min(join([data.train, data.test]).lengths) < self._maker.layout.least_tokens:
            raise DataError(
                f"site '{admitted.site}' has a text of a single token: nothing to predict",
                hint="delete such rows",
            )
        self._chunks = [
            (part, texts, span)
            for part, texts in parts
            for span in chunk_spans(texts.lengths, self._maker.layout)
        ]

    def answer(self, question: Frame) -> Frame:
        """Do what the server enclave asks.

        Raises:
            FrameError: not a question that a site answers.
            DataError, ModelError, StorageError: the work failed.
        """
        round_ = question.meta.get("round")
        if isinstance(round_, int) and question.kind == "upload":
            return self._upload(round_, question.meta.get("chunk"))
        if isinstance(round_, int) and question.kind == "finish":
            return self._finish(round_, question)
        raise FrameError(f"the server asked {question.kind[:40]!r} for round {round_!r}")

    def _upload(self, round_: int, number: object) -> Frame:
        if not isinstance(number, int) or not 0 <= number < len(self._chunks):
            raise FrameError(f"the server asked for chunk {number!r} of {len(self._chunks)}")
        of = len(self._chunks)
        if number == of - 1:  # with it the server has all that it trains on
            self._admitted.jobs.take_part(self._admitted.manifest.rounds)
        self._emit(Phase(round=0, phase="upload", of=of))
        begun = time.perf_counter()
        part, texts, span = self._chunks[number]
        chunk = self._maker.chunk(part, texts, span)
        spent = round(time.perf_counter() - begun, 3)
        meta = {
            **self._head,
            "round": round_,
            "chunk": number,
            "of": of,
            "part": part,
            "samples": len(span),
            "seconds": spent,
        }
        if number in self._sent:
            self._emit(Repeated(chunk=number + 1, of=of))  # lost on its way, or asked for anew
        self._sent.add(number)
        tokens = sum(chunk.lengths)
        self._emit(Uploaded(chunk=number + 1, of=of, tokens=tokens, seconds=spent))
        return Frame("chunk", meta, chunk.body())

    def _finish(self, round_: int, message: Frame) -> Frame:
        self._emit(Phase(round=round_, phase="release", of=0))
        files = self._received.take(message)
        self._admitted.jobs.mark_released()
        if files:
            write_adapter(self._folder, own_copy(files, self._admitted))
            read_fingerprint(self._folder)
        if files is not None:
            self._emit(Worked(round=round_, stage="release"))
        self._emit(Phase(round=round_, phase="wait", of=0))
        return Frame("received", {"round": round_, "have": self._received.have})
