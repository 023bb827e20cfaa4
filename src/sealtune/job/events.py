"""What enclaves and data owners' programs say of themselves: one frozen model for each event.

What has no field here leaves no enclave this way: progress, counts, losses, timings; never a text,
a tensor or a key. ``sealtune.job.event_log`` has the other processes' events, and reads them all.

Trust domain: every process that speaks, and the launcher and the report, which listen.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Self

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


Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[Annotated[float, Field(strict=True)] | None, BeforeValidator(_finite)]
Flag = Annotated[bool, Field(strict=True)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Event(_Model):
    """What every event has once it is on record.

    Attributes:
        time: unix seconds.
        role: ``launcher``, ``server``, ``client:<site>``, ``accelerator`` or ``flower``.
    """

    event: ClassVar[str]
    time: Number = None
    role: str = ""

    def fields(self) -> dict[str, Any]:
        """The event as a JSON object: what was stated, null included."""
        return {"event": self.event, **self.model_dump(exclude_unset=True)}


class Error(Event):
    """What went wrong, as in ``sealtune.errors``."""

    event: ClassVar[str] = "error"
    code: Count = 1
    error: str = ""
    message: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: SealtuneError) -> Self:
        """The event that tells of an error."""
        name = type(error).__name__
        return cls(code=error.exit_code, error=name, message=error.message, hint=error.hint)


class Ready(Event):
    """The process listens."""

    event: ClassVar[str] = "ready"
    arithmetic: str | None = None


class Done(Event):
    """The process ends in good order."""

    event: ClassVar[str] = "done"


class Memory(Event):
    """Largest resident memory."""

    event: ClassVar[str] = "memory"
    peak_mib: Number


class Products(Event):
    """How the accelerator multiplies."""

    event: ClassVar[str] = "products"
    arithmetic: str


class Attested(Event):
    """``by`` has verified ``who``.

    Attributes:
        kind: of the evidence; ``participant``: a signature by its key, and no evidence.
        confidential: whether that kind keeps the machine's operator out.
        job_id: that the evidence is bound to.
    """

    event: ClassVar[str] = "attested"
    who: str
    by: str
    kind: str | None = None
    confidential: Flag | None = None
    job_id: str | None = None


class CutTexts(Event):
    """``count`` of a site's ``of`` texts exceed ``data.max_tokens``."""

    event: ClassVar[str] = "warning"
    what: str = "truncated"
    site: str
    part: str
    count: Count
    of: Count


class Phase(Event):
    """A new phase of a round, of ``of`` steps; 0: it is not counted in steps."""

    event: ClassVar[str] = "phase"
    round: Count
    phase: str
    of: Count = 0


class Step(Event):
    """Step ``step`` of ``of`` is done. The loss is that of its batch."""

    event: ClassVar[str] = "step"
    round: Count
    step: Count
    of: Count
    loss: Number = None
    tokens: Count | None = None


class Evaluated(Event):
    """A site's test rows (``causal-lm``: tokens), and how many were answered rightly."""

    event: ClassVar[str] = "evaluated"
    round: Count
    correct: Count
    total: Count
    loss: Number = None


class Exported(Event):
    """The adapter was written and read back: largest difference, share of the same answers."""

    event: ClassVar[str] = "exported"
    difference: Number = None
    agreement: Number = None


class Uploaded(Event):
    """A site has made chunk ``chunk`` of ``of``."""

    event: ClassVar[str] = "uploaded"
    chunk: Count
    of: Count
    tokens: Count


class Repeated(Event):
    """A site makes a chunk once more: it was lost on its way, or asked for anew."""

    event: ClassVar[str] = "repeated"
    chunk: Count
    of: Count


class Upload(Event):
    """The server enclave has taken in a site's chunk; ``bytes`` have come from the site so far."""

    event: ClassVar[str] = "upload"
    site: str
    chunk: Count
    of: Count
    bytes: Count


class Heads(Event):
    """The attention heads that SPF chose: module -> group -> numbers of heads."""

    event: ClassVar[str] = "heads"
    heads: dict[str, dict[str, tuple[Count, ...]]]
    query_heads: Count | None = None
    key_value_heads: Count | None = None


class Busy(_Model):
    """Seconds of a site's round by what was busy."""

    enclave: Number = None
    accelerator: Number = None
    pads: Number = None


class SiteRound(_Model):
    """One site's part of a round.

    Attributes:
        outcome: ``ok``, ``late`` or ``failed``.
        reason: why it is not ``ok``.
        bytes_up, bytes_down: sealed, from and to the site.
    """

    outcome: str | None = None
    reason: str = ""
    examples: Count | None = None
    train_loss: Number = None
    correct: Count | None = None
    total: Count | None = None
    loss: Number = None
    bytes_up: Count | None = None
    bytes_down: Count | None = None
    seconds: Busy | None = None
    frozen_unchanged: Flag | None = None


class Round(Event):
    """The server has closed a round; 0 is the evaluation before training.

    Attributes:
        seconds: wall time of the round; ``server_seconds``: of the server's own work in it.
        train_loss: where the server itself trains.
    """

    event: ClassVar[str] = "round"
    round: Count
    sites: dict[str, SiteRound] = {}
    seconds: Number = None
    server_seconds: Number = None
    train_loss: Number = None
    trained_moved: Flag | None = None
    frozen_unchanged: Flag | None = None


class Final(Round):
    """The evaluation after the last round."""

    event: ClassVar[str] = "final"


def kinds(base: type[Event] = Event) -> dict[str, type[Event]]:
    """Every event that is defined, by its name."""
    found = {base.event: base} if base is not Event else {}
    for kind in base.__subclasses__():
        found |= kinds(kind)
    return found


def make(event: str, **fields: Any) -> Event:
    """An event by its name."""
    kind = kinds()[event]
    unknown = fields.keys() - kind.model_fields.keys()
    if unknown:
        raise TypeError(f"the event {event!r} has no {', '.join(sorted(unknown))}")
    return kind(**fields)
