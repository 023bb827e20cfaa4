"""What the processes of a run say of themselves: one frozen model for each event.

What has no field here leaves no enclave this way: progress, counts, losses, timings; never a text,
a tensor or a key. ``training_events`` has those of whoever trains or uploads, ``event_log`` those
of launcher and network engine; it reads them all.

Trust domain: every process that speaks, and the launcher and the report, which listen.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from sealtune.errors import SealtuneError


def _finite(value: Any) -> Any:
    """JSON has no word for NaN and the infinities: null."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int beyond the range of floats
        return None


NOT_ASKED: Literal["not asked"] = "not asked"  # outcome of a site that a round does without
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[Annotated[float, Field(strict=True)] | None, BeforeValidator(_finite)]
Flag = Annotated[bool, Field(strict=True)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Event(_Model):
    """What every event has once it is on record.

    Attributes:
        event: its name.
        time: unix seconds.
        role: ``launcher``, ``server``, ``client:<site>``, ``accelerator`` or ``flower``.
    """

    event: ClassVar[str]
    time: Number = None
    role: str = ""

    def __init_subclass__(cls, event: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.event = event

    def fields(self) -> dict[str, Any]:
        """The event as a JSON object: what was stated, null included."""
        return {"event": self.event, **self.model_dump(exclude_unset=True)}


class Error(Event, event="error"):
    """What went wrong, as in ``sealtune.errors``."""

    code: Count = 1
    error: str = ""
    message: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: SealtuneError) -> Self:
        """The event that tells of an error."""
        name = type(error).__name__
        return cls(code=error.exit_code, error=name, message=error.message, hint=error.hint)


class Ready(Event, event="ready"):
    """The process listens."""

    arithmetic: str | None = None


class Done(Event, event="done"):
    """The process ends in good order."""


class Refused(Event, event="refused"):
    """A site does not follow the server enclave, whose state is not after the one that it saw."""

    message: str
    hint: str = ""


class Memory(Event, event="memory"):
    """Largest resident memory."""

    peak_mib: Number


class Attested(Event, event="attested"):
    """``by`` has verified ``who``.

    Attributes:
        kind: of the evidence; ``participant``: a signature by its key, and no evidence.
        confidential: whether that kind keeps the machine's operator out.
        job_id: that the evidence is bound to.
        gpus: whose evidence came with it.
    """

    who: str
    by: str
    kind: str | None = None
    confidential: Flag | None = None
    job_id: str | None = None
    gpus: Count = 0


class Busy(_Model):
    """Seconds of a site's round by what was busy."""

    enclave: Number = None
    accelerator: Number = None
    pads: Number = None
    passes: Number = None


class SiteRound(_Model):
    """One site's part of a round; ``party.outcome`` decides which fields a server lets out.

    Attributes:
        outcome: ``ok``, ``late`` or ``failed``; ``not asked``: others trained in this round.
        reason: why it is not ``ok``.
        outlier: its update points elsewhere than those of the other sites.
        agreement: cosine with its update that at least half of the others reach.
        bytes_up, bytes_down: sealed, from and to the site.
        norm_bound: largest L2 norm that its update may have; ``clipped``: whether it had more.
    """

    outcome: str | None = None
    reason: str = ""
    outlier: Flag | None = None
    agreement: Number = None
    examples: Count | None = None
    train_loss: Number = None
    correct: Count | None = None
    total: Count | None = None
    loss: Number = None
    bytes_up: Count | None = None
    bytes_down: Count | None = None
    seconds: Busy | None = None
    frozen_unchanged: Flag | None = None
    norm_bound: Number = None
    clipped: Flag | None = None


class Round(Event, event="round"):
    """The server has closed a round; 0 is the evaluation before training.

    Attributes:
        seconds: wall time of the round; ``server_seconds``: of the server's own work in it.
        train_loss: the server's own where it trains, else the sites' mean, weighted by rows.
        correct, total, loss: over the test rows of all sites that answered.
        residual: share (Frobenius norms) of the mean of products that the job's rank does not hold;
            ``factor_error``: by how much averaging their factors would have missed it.
        norm_ratio: to which updates are clipped where ``aggregation.norm_bound`` is ``auto`` (see
            ``methods.federated.norm_bound``); ``clipped``: how many sites' were.
    """

    round: Count
    sites: dict[str, SiteRound] = {}
    seconds: Number = None
    server_seconds: Number = None
    train_loss: Number = None
    correct: Count | None = None
    total: Count | None = None
    loss: Number = None
    norm_ratio: Number = None
    clipped: Count | None = None
    trained_moved: Flag | None = None
    frozen_unchanged: Flag | None = None
    residual: Number = None
    factor_error: Number = None


class PrivacySpent(Event, event="privacy"):
    """What the rounds so far have cost.

    Attributes:
        round: the last one that was trained.
        epsilon: of the site with the least privacy; ``budget``: the largest that is allowed.
        ended: no further round fits, and training ends before the job's last one.
    """

    round: Count
    epsilon: Number = None
    delta: Number = None
    budget: Number = None
    ended: Flag = False


class Final(Round, event="final"):
    """The evaluation after the last round."""
