"""Events of launcher, network engine and accelerator, and the reader of all events.

    parse(b'{"event": "step", "round": 1, "step": 2, "of": 5, "loss": 1.25, "tokens": 9}')

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from sealtune.job import events, training_events
from sealtune.job.events import Count, Event, Flag, Number
from sealtune.job.printable import printable

_MAX_TEXT = 2000  # characters of one line of a text


class Start(Event, event="start"):
    """The launcher begins, or goes on with, a run.

    Attributes:
        code: program -> lines of sealtune that it loads when it starts.
        party: whose part it is, such as ``site-north``; None: all parties' on one machine.
    """

    versions: Mapping[str, str] = Field(default_factory=dict)
    code: Mapping[str, Count] = Field(default_factory=dict)
    seed: Annotated[int, Field(strict=True)] | None = None
    job_id: str | None = None
    plan_digest: str | None = None
    protect: str | None = None
    sites: tuple[str, ...] = ()
    rounds: Count | None = None
    resume: Flag = False
    party: str | None = None
    majority_class: Number = None
    job_file: str | None = None


class End(Event, event="end"):
    """The launcher has ended; ``outcome`` is ``ok``, ``failed`` or ``interrupted``."""

    outcome: str
    seconds: Number = None


class Bye(Event, event="bye"):
    """The relay ends in good order."""


class Offload(Event, event="offload"):
    """What the accelerator has done since it began."""

    calls: Count
    bytes_in: Count
    bytes_out: Count
    busy_seconds: Number = None


class Network(Event, event="network"):
    """What the network engine is about.

    Attributes:
        attempt: to start a part of it again.
        connected: whether this host reaches the coordinator's.
    """

    state: str
    attempt: Count | None = None
    connected: Flag | None = None


class Exchange(Event, event="exchange"):
    """Messages to these sites are on their way."""

    sites: tuple[str, ...]
    bytes: Count


class Transfer(Event, event="transfer"):
    """A message to a site came back answered (``reply``), or did not (``absent``)."""

    site: str
    outcome: str
    reason: str = ""
    attempts: Count = 1
    bytes_down: Count = 0
    bytes_up: Count = 0
    seconds: Number = None


class Log(Event, event="log"):
    """A line of the network engine's own log."""

    message: str


_KINDS = {
    kind.event: kind
    for module in (vars(events), vars(training_events), dict(globals()))
    for kind in module.values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
}


def parse(line: str | bytes) -> Event | None:
    """The event on a line, or None if it is none: no JSON, an unknown kind, an odd field.

    Whatever a process says, or passes on of what others told it, is made harmless here: terminal,
    log and report get no escape sequence and no line that looks like one of the launcher's own.
    """
    try:
        said = json.loads(line)
        kind = _KINDS.get(said["event"])
        return None if kind is None else kind.model_validate(_harmless(said))
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        first, *more = (printable(line, _MAX_TEXT) for line in value.split("\n"))
        return "\n".join((first, *(f"    {line.removeprefix('    ')}" for line in more)))
    if isinstance(value, dict):
        return {_harmless(key): _harmless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    return value
