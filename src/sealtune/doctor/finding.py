"""One thing that was looked at.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

Value = bool | int | float | str | tuple[str, ...] | None


class State(StrEnum):
    """What was found, whoever may need it."""

    GOOD = "good"
    POOR = "poor"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        key: its name, which stays the same from version to version.
        state: what was found.
        words: the same for people.
        remedy: what to do, where it is not good.
        install: Debian packages to install.
        value: what was read, for programs.
    """

    key: str
    state: State
    words: str
    remedy: str = ""
    install: tuple[str, ...] = ()
    value: Value = None


def found(
    key: str,
    there: bool | None,
    words: str,
    remedy: str = "",
    *,
    install: Sequence[str] = (),
    value: Value = None,
) -> Finding:
    """The finding of something that is there or not; None: it cannot be seen from here."""
    if there:
        return Finding(key, State.GOOD, words, value=value)
    state = State.UNKNOWN if there is None else State.MISSING
    return Finding(key, state, words, remedy, tuple(install), value)


def safe(key: str, kept: bool | None, words: str, remedy: str, value: Value = None) -> Finding:
    """The finding of a danger that is kept out or not; None: it cannot be seen from here."""
    state = State.UNKNOWN if kept is None else State.GOOD if kept else State.POOR
    return Finding(key, state, words, "" if kept else remedy, value=value)


def summed_up(key: str, what: str, parts: Sequence[Finding], value: Value = None) -> Finding:
    """The finding of a whole whose first part says whether this machine has it at all."""
    lacking = [part for part in parts if part.state is not State.GOOD]
    if not lacking:
        return Finding(key, State.GOOD, f"{what}: yes", value=value)
    install = tuple(dict.fromkeys(name for part in lacking for name in part.install))
    if lacking[0] is parts[0]:
        first = parts[0]
        return Finding(key, first.state, f"{what}: {first.words}", first.remedy, install, value)
    remedy = "; ".join(dict.fromkeys(part.remedy for part in lacking if part.remedy))
    words = f"{what}: in part; {'; '.join(part.words for part in lacking)}"
    return Finding(key, State.POOR, words, remedy, install, value)
