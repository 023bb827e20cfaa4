"""Which products a training enclave will ask for next: those that followed the same ones before.

Steps repeat themselves, so what came after the last few calls, when these came the last time, comes
again: as much as one step. Where numbers of rows changed on the way, nothing is foretold beyond:
nobody knows to what.

Trust domain: site enclave; public facts only.
"""

from __future__ import annotations

from typing import NamedTuple

CONTEXT = 8  # calls that tell where in a step one is, recomputation of blocks included
_KEPT = 1 << 15


class Call(NamedTuple):
    """One product of a step.

    Attributes:
        group: of the slice plan.
        backward: for ``g W`` instead of ``x W^T``.
        rows: T.
    """

    group: str
    backward: bool
    rows: int


class CallOrder:
    """Learns from the calls of one enclave."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._runs: list[int] = []  # of each call: how often numbers of rows had changed
        self._after: dict[tuple[tuple[str, bool], ...], int] = {}
        self._from: int | None = None  # where in the past what comes next came next

    def add(self, call: Call) -> None:
        """``call`` has come."""
        if len(self._calls) >= _KEPT:  # the beginning of a long run is learned anew
            self._calls, self._runs = self._calls[-CONTEXT:], self._runs[-CONTEXT:]
            self._after = {}
        changed = bool(self._calls) and self._calls[-1].rows != call.rows
        self._runs.append((self._runs or [0])[-1] + changed)
        self._calls.append(call)
        context = tuple(one[:2] for one in self._calls[-CONTEXT:])
        self._from = self._after.get(context)
        self._after[context] = len(self._calls)

    def ahead(self, number: int) -> Call | None:
        """The call that comes after ``number`` others; None: nobody knows, or not in this step."""
        if self._from is None or self._from + number >= len(self._calls):
            return None
        if self._runs[self._from + number] != self._runs[self._from - 1]:
            return None
        group, backward, _ = self._calls[self._from + number]
        return Call(group, backward, self._calls[-1].rows)
