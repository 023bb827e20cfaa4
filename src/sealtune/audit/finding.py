"""What an attack found, and what that says of the protection.

    Finding("adapter-extraction", "", "cosine …", 0.01, baseline=…, protected=…).verdict   # "held"

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What a finding says of the protection."""

    HELD = "held"  # succeeds without protection, gets no more than guessing with it
    LIMIT = "limit"  # succeeds on the protected run, as the documents say it does
    BROKEN = "broken"  # succeeds on the protected run, and the documents say that it does not
    WEAK = "attack too weak"  # gets no more than guessing where it should succeed: shows nothing


@dataclass(frozen=True)
class Rate:
    """How well an attack did, with its confidence interval (``statistics.LEVEL``).

    Attributes:
        value: what was measured; larger is better for the attacker.
        low, high: the interval.
        trials: independent trials that it comes from.
    """

    value: float
    low: float
    high: float
    trials: int

    def __post_init__(self) -> None:
        """Raise ValueError unless the interval holds the value; so NaN is refused, too."""
        if not (self.low <= self.value <= self.high and self.trials > 0):
            raise ValueError(f"{self} is no rate")


@dataclass(frozen=True)
class Finding:
    """One attack, without protection and against it.

    Attributes:
        attack: its name, such as ``adapter-extraction``.
        variant: such as ``cut 24`` or ``epsilon 8``; empty: there is one only.
        measure: what ``baseline`` and ``protected`` count, in plain words with the unit. Larger is
            better for the attacker: a guess that can be turned round counts as the better of both.
        chance: what guessing gets.
        baseline: without protection.
        protected: with it; None: there is none against this, which is a ``limit``.
        limit: succeeds on the protected run by design, and the documents say so.
        note: what else a reader needs to know.
    """

    attack: str
    variant: str
    measure: str
    chance: float
    baseline: Rate
    protected: Rate | None
    limit: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError if nothing protects and it is not said to be a limit."""
        if self.protected is None and not self.limit:
            raise ValueError(f"{self.attack}: without protection it is a limit")

    @property
    def verdict(self) -> Verdict:
        """What it says. The interval decides on both sides, not the value."""
        if self.baseline.low <= self.chance:
            return Verdict.WEAK
        succeeds = self.protected is None or self.protected.low > self.chance
        if not succeeds:
            return Verdict.HELD
        return Verdict.LIMIT if self.limit else Verdict.BROKEN
