"""What one stage of the job is, and what became of each site in it.

Trust domain: server enclave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sealtune.errors import FrameError
from sealtune.frames import is_count
from sealtune.job.manifest import DataIdentity

StageKind = Literal["evaluate", "train", "release"]
_SECONDS = ("enclave", "accelerator", "pads")
_LARGEST = 1e12  # beyond any loss or number of seconds
_MAX_REASON = 500  # characters


@dataclass(frozen=True)
class Stage:
    """One thing that all sites are asked to do: evaluate, train a round, or take the result."""

    kind: StageKind
    round: int

    @property
    def answer(self) -> str:
        """Kind of message that a site answers with."""
        return "update" if self.kind == "train" else "metrics"


def stages(rounds: int, done: int | None) -> list[Stage]:
    """What is left of a job.

    Args:
        rounds: of training, altogether.
        done: the last finished round; 0 if only the first evaluation is, None if nothing is.
    """
    first = [] if done is not None else [Stage("evaluate", 0)]
    train = [Stage("train", r) for r in range((done or 0) + 1, rounds + 1)]
    return [*first, *train, Stage("release", rounds)]


@dataclass
class Entry:
    """One site's line in the round report."""

    outcome: Literal["ok", "late", "failed"] = "failed"
    reason: str = "no answer"
    fields: dict[str, Any] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def succeed(self, fields: Mapping[str, Any]) -> None:
        """The site did its part."""
        self.outcome, self.reason, self.fields = "ok", "", dict(fields)

    def fail(self, reason: str, *, late: bool = False) -> None:
        """The site did not."""
        self.outcome = "late" if late else "failed"
        self.reason = reason[:_MAX_REASON]

    def public(self) -> dict[str, Any]:
        """As in the round event."""
        return {
            "outcome": self.outcome,
            "reason": self.reason,
            **{key: self.fields.get(key) for key in _KEYS},
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": self.fields.get("seconds", dict.fromkeys(_SECONDS, 0.0)),
        }


_KEYS = ("examples", "train_loss", "correct", "total", "loss")


def read_fields(
    stage: Stage, meta: Mapping[str, Any], signed: DataIdentity, questions_per_row: int
) -> dict[str, Any]:
    """Check what a site reports about its work, and drop what is not asked for.

    What was signed is not asked for: how many training rows a site has is ``signed.train_rows``.

    Args:
        signed: the site's data in the manifest.
        questions_per_row: 1, or for ``causal-lm`` how many tokens a text has at most.

    Raises:
        FrameError: a number is missing, of the wrong kind, absurd, or not what was signed.
    """
    if _count(meta, "round") != stage.round:
        raise FrameError(f"the site answered for another round than {stage.round}")
    fields: dict[str, Any] = {"examples": signed.train_rows}
    if stage.kind == "train":
        fields["train_loss"] = _number(meta, "train_loss")
    else:
        correct, total = _count(meta, "correct"), _count(meta, "total")
        most = signed.test_rows * questions_per_row
        if total > most or (questions_per_row == 1 and total < most):
            raise FrameError(f"the site reports {total} questions, its signed rows give {most}")
        if correct > total:
            raise FrameError("the site reports more right answers than questions")
        fields |= {"correct": correct, "total": total, "loss": _number(meta, "loss")}
    seconds = meta.get("seconds")
    if not isinstance(seconds, dict):
        raise FrameError("the site does not report its seconds")
    fields["seconds"] = {key: round(_number(seconds, key), 3) for key in _SECONDS}
    return fields


def _count(meta: Mapping[str, Any], key: str) -> int:
    value = meta.get(key)
    if not is_count(value):
        raise FrameError(f"the site's '{key}' is not a count")
    return value


def _number(meta: Mapping[str, Any], key: str) -> float:
    value = meta.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        # JSON has integers that no float holds
        number = float(value) if abs(value) < _LARGEST else math.inf
        if math.isfinite(number):
            return number
    raise FrameError(f"the site's '{key}' is not a finite number")
