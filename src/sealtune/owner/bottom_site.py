"""A site's data and the bottom of the model: cut activations, chunk by chunk.

Trust domain: data owner.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sealtune.data.site import Example, SiteData
from sealtune.enclave.events import Emit
from sealtune.errors import DataError, FrameError
from sealtune.frames import Frame
from sealtune.job.resolved import Resolved
from sealtune.methods.split.messages import upload_head
from sealtune.model.activations import pack
from sealtune.model.batches import sorted_batches
from sealtune.model.cut import Bottom
from sealtune.model.cut_chunk import Chunk, Layout, PartName, chunk_spans, layout_of
from sealtune.model.partial import load_part
from sealtune.model.tasks import Task
from sealtune.owner.received import Received
from sealtune.tuning.adapter import own_copy, read_fingerprint, write_adapter


class CutMaker:
    """Runs the bottom on texts.

    Args:
        resolved: the job, checked.
        task: tokenises the texts.
    """

    def __init__(self, resolved: Resolved, task: Task) -> None:
        self.layout: Layout = layout_of(resolved.job, len(resolved.labels))
        self._task = task
        self._size = resolved.job.train.eval_batch_size
        part = load_part(resolved.job.model, len(resolved.labels) or None, resolved.cut, "bottom")
        self._bottom = Bottom(part, resolved.cut)

    def chunk(self, part: PartName, examples: Sequence[Example]) -> Chunk:
        """The cut activations of ``examples``, in their order, with their labels.

        Raises:
            DataError: the model gives values that are not finite.
        """
        rows = [self._task.encode(example.text) for example in examples]
        return Chunk(
            part,
            tuple(map(len, rows)),
            tuple(-1 if e.label is None else e.label for e in examples),
            None if self.layout.classes else tuple(map(tuple, rows)),
            tuple(self.packed(rows)),
        )

    def packed(self, rows: Sequence[Sequence[int]]) -> list[bytes]:
        """The packed cut activations of rows of token ids."""
        found = [b""] * len(rows)
        for chosen in sorted_batches(list(map(len, rows)), self._size):
            batch = self._task.pad([rows[i] for i in chosen])
            hidden = self._bottom(batch.input_ids, batch.attention_mask)
            for place, i in enumerate(chosen):
                found[i] = pack(hidden[place, : len(rows[i])], self.layout.form)
        return found


class BottomSite:
    """Answers the server enclave during a run.

    upload {"round", "chunk"}  -> chunk
    finish {"round", "part"}   -> received; the adapter, where it was released, is written

    Args:
        resolved: the job, checked.
        site: whose data it is.
        data: the site's examples.
        task: tokenises them.
        run_dir: the run's folder; the released adapter goes to ``sites/<site>/adapter``.
        emit: gets progress events.
    """

    def __init__(
        self,
        resolved: Resolved,
        site: str,
        data: SiteData,
        task: Task,
        run_dir: Path,
        emit: Emit,
    ) -> None:
        self._head = upload_head(resolved)
        self._data = data
        self._maker = CutMaker(resolved, task)
        self._folder = run_dir / "sites" / site / "adapter"
        self._emit = emit
        self._resolved = resolved
        self._sent: set[int] = set()
        self._received = Received()
        parts: tuple[tuple[PartName, Sequence[Example]], ...] = (
            ("train", data.train),
            ("test", data.test),
        )
        lengths = {part: task.lengths(examples) for part, examples in parts}
        if min(map(min, lengths.values())) < self._maker.layout.least_tokens:
            raise DataError(
                f"site '{site}' has a text of a single token, which leaves nothing to predict",
                hint="delete such rows",
            )
        self._chunks: list[tuple[PartName, Sequence[Example]]] = [
            (part, examples[span.start : span.stop])
            for part, examples in parts
            for span in chunk_spans(lengths[part], self._maker.layout)
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
        self._emit("phase", round=0, phase="upload", of=of)
        begun = time.perf_counter()
        part, examples = self._chunks[number]
        chunk = self._maker.chunk(part, examples)
        meta = {
            **self._head,
            "round": round_,
            "chunk": number,
            "of": of,
            "part": part,
            "samples": len(examples),
            "seconds": round(time.perf_counter() - begun, 3),
        }
        if number in self._sent:
            self._emit("repeated", chunk=number + 1, of=of)  # lost on its way, or asked for anew
        self._sent.add(number)
        self._emit("uploaded", chunk=number + 1, of=of, tokens=sum(chunk.lengths))
        return Frame("chunk", meta, chunk.body())

    def _finish(self, round_: int, message: Frame) -> Frame:
        self._emit("phase", round=round_, phase="release", of=0)
        files = self._received.take(message)
        if files:
            write_adapter(self._folder, own_copy(files, self._resolved))
            read_fingerprint(self._folder)
        self._emit("phase", round=round_, phase="wait", of=0)
        return Frame("received", {"round": round_, "have": self._received.have})
