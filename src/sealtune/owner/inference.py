"""Texts that a site asks the server enclave of a finished split job about.

The texts, and the tokens that a continuation grows by, stay on this machine; the server enclave
sees cut activations.

Trust domain: data owner.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sealtune.data.site import Example
from sealtune.errors import DataError, FrameError
from sealtune.frames import Frame
from sealtune.methods.split.messages import upload_head
from sealtune.model.cut_chunk import Chunk, chunk_spans
from sealtune.model.tasks import Task
from sealtune.owner.bottom_site import CutMaker
from sealtune.party.admit import Admitted

_BATCH = 64  # texts in one message


class Asker(ABC):
    """Asks until it has every answer; see ``methods.split.messages``.

    Args:
        admitted: the job.
        maker: runs the bottom.
    """

    def __init__(self, admitted: Admitted, maker: CutMaker) -> None:
        self._head = upload_head(admitted)
        self._maker = maker
        self._rows: list[Sequence[int]] = []  # of the message under way

    def answer(self, question: Frame) -> Frame:
        """Take the answers to the last message, and ask the next.

        Raises:
            FrameError: answers that nobody asked for.
        """
        round_ = question.meta.get("round")
        if question.kind != "ask" or not isinstance(round_, int):
            raise FrameError(f"the server asked {question.kind[:40]!r}")
        if self._rows:
            self._take(read_answers(bytes(question.body), len(self._rows)))
        self._rows = self._fitting(self._next())
        if not self._rows:
            return Frame("enough", {"round": round_})
        lengths = tuple(map(len, self._rows))
        chunk = Chunk(
            "test", lengths, (0,) * len(lengths), None, tuple(self._maker.packed(self._rows))
        )
        meta = {**self._head, "round": round_, "part": "test", "samples": len(lengths)}
        return Frame("questions", meta, chunk.body())

    def _fitting(self, rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """As many of ``rows`` as go into one message; ``_take`` hears of these alone."""
        first = chunk_spans([len(row) for row in rows[:_BATCH]], self._maker.layout)[:1]
        return [rows[i] for span in first for i in span]

    @abstractmethod
    def _next(self) -> Sequence[Sequence[int]]:
        """All rows of token ids that are left to ask about; none when all is known."""

    @abstractmethod
    def _take(self, answers: NDArray[np.float32]) -> None:
        """Answers to the rows asked last, float32 [rows, n]."""


class ClassAsker(Asker):
    """Probabilities of every class; DataError: a text that the model has no place for.

    Attributes:
        shares: for each text, in their order.
    """

    def __init__(
        self, admitted: Admitted, maker: CutMaker, task: Task, texts: Sequence[str]
    ) -> None:
        super().__init__(admitted, maker)
        encoded = task.encode([Example(text, None) for text in texts])
        self._texts = [row.tolist() for row in encoded.rows(range(len(texts)))]
        maker.check_length(max(encoded.lengths, default=0))
        self._classes = len(admitted.labels)
        self.shares: list[list[float]] = []

    def _next(self) -> Sequence[Sequence[int]]:
        return self._texts[len(self.shares) :]

    def _take(self, answers: NDArray[np.float32]) -> None:
        if answers.shape[1] != self._classes:
            raise FrameError(f"the server answered with {answers.shape[1]} classes")
        self.shares += answers.tolist()


class ContinueAsker(Asker):
    """The most probable continuation of each text, token by token.

    Attributes:
        rows: each text's token ids, growing.
    """

    def __init__(
        self,
        admitted: Admitted,
        maker: CutMaker,
        rows: Sequence[Sequence[int]],
        *,
        tokens: int,
        end: int | None,
    ) -> None:
        super().__init__(admitted, maker)
        self.rows = [list(row) for row in rows]
        most, longest = maker.layout.max_tokens, max(map(len, rows))
        if longest + tokens > most:
            raise DataError(
                f"a text of {longest} tokens and {tokens} more are beyond the job's "
                f"data.max_tokens of {most}",
                hint="shorten the text, or ask for fewer tokens",
            )
        maker.check_length(longest + tokens)
        self._limits = [len(row) + tokens for row in rows]
        self._end = end
        self._asked: list[int] = []

    def _next(self) -> Sequence[Sequence[int]]:
        self._asked = [i for i, row in enumerate(self.rows) if not self._is_done(i, row)]
        return [self.rows[i] for i in self._asked]

    def _is_done(self, i: int, row: list[int]) -> bool:
        return len(row) >= self._limits[i] or (self._end is not None and row[-1] == self._end)

    def _take(self, answers: NDArray[np.float32]) -> None:
        if answers.shape[1] != 1:
            raise FrameError(f"the server answered with {answers.shape[1]} tokens for each text")
        for token in answers[:, 0]:
            if token != int(token) or not 0 <= token < self._maker.layout.vocabulary:
                raise FrameError(f"the server answered with token {token}")
        for i, token in zip(self._asked, answers[:, 0], strict=False):  # the first ones were asked
            self.rows[i].append(int(token))


def read_answers(data: bytes, rows: int) -> NDArray[np.float32]:
    """The server enclave's answers to so many rows, float32 [rows, n].

    Raises:
        FrameError: another number of them, or not finite.
    """
    if not data or len(data) % (4 * rows):
        raise FrameError(f"{len(data)} bytes are no answers to {rows} texts")
    answers: NDArray[np.float32] = np.frombuffer(data, dtype="<f4").reshape(rows, -1)
    if not np.isfinite(answers).all():
        raise FrameError("the server's answers are not finite")
    return answers
