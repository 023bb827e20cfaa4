"""Which of several deaths was the cause, and how to tell it.

When the accelerator is killed, every client enclave fails a moment later because of it. What the
user needs is the first cause.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sealtune import errors
from sealtune.errors import FederationError, ProcessDiedError, SealtuneError
from sealtune.job.events import Error

# A process's own exit code says which branch of the tree its error belongs to, also where the
# class itself is not known here (those of sealtune.attest).
_BRANCHES: dict[int, type[SealtuneError]] = {
    branch.exit_code: branch
    for branch in SealtuneError.__subclasses__()
    if branch.__module__ == errors.__name__
}


@dataclass(frozen=True)
class Death:
    """A process that ended when it should not have.

    Attributes:
        role: which.
        code: its exit code, negative for a signal.
        said: its own "error" event, if it sent one.
        log: its log file.
        tail: the log's last lines.
    """

    role: str
    code: int
    said: Error | None
    log: Path
    tail: str = ""


def cause(deaths: Sequence[Death]) -> SealtuneError:
    """The error to raise for ``deaths``, which are in the order of their arrival."""
    death = min(deaths, key=_rank)  # the earliest of equals
    return _died(death) if death.said is None else revive(death.role, death.said)


# errors of a party that say that another one went away
_CONSEQUENCES = {"SiteLostError", "AcceleratorLostError"}


def may_pass(said: Error | None) -> bool:
    """Whether a process that ended may do better when it is started again.

    Args:
        said: its own "error" event; None: it was killed, or crashed.
    """
    return said is None or said.error in _CONSEQUENCES


def _rank(death: Death) -> int:
    """Lower is more likely the first cause."""
    if death.code < 0:
        return 0  # somebody killed it; nothing that failed elsewhere can have done that
    if death.role == "flower:relay":
        return 5  # it fails when the aggregator does
    if death.said is not None and death.said.error in _CONSEQUENCES:
        return 4
    if death.role in ("accelerator", "pad-accelerator"):
        return 1
    return 2 if death.said is not None else 3


def _died(death: Death) -> ProcessDiedError:
    if death.code < 0:
        how = f"was killed by {_signal_name(-death.code)}"
    else:
        how = f"ended unexpectedly with exit code {death.code}"
    hint = f"its log is {death.log}"
    if death.code == -signal.SIGKILL:
        hint += " (if nobody killed it: did the machine run out of memory? see dmesg)"
    if death.tail:
        lines = "\n".join(f"    {line}" for line in death.tail.splitlines())
        hint += f"; its last lines:\n{lines}"
    return ProcessDiedError(f"{death.role} {how}", hint=hint)


def revive(role: str, said: Error) -> SealtuneError:
    """An "error" event as the exception that it was in its process."""
    named = getattr(errors, said.error, None)
    if isinstance(named, type) and issubclass(named, SealtuneError):
        cls = named
    else:
        cls = _BRANCHES.get(said.code, FederationError)
    error = cls.__new__(cls)  # some classes take other arguments than a message
    SealtuneError.__init__(error, f"{role}: {said.message or 'no message'}", hint=said.hint)
    return error


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"
