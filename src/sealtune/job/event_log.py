"""Events of launcher, network engine and accelerator, and the reader of all events.

    parse(b'{"event": "step", "round": 1, "step": 2, "of": 5, "loss": 1.25, "tokens": 9}')

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from sealtune.job.events import Count, Event, Flag, Number, kinds
from sealtune.job.printable import printable

_MAX_TEXT = 2000  # characters of one line of a text


class Start(Event):
    """The launcher begins, or goes on with, a run."""

    event: ClassVar[str] = "start"
    versions: Mapping[str, str] = Field(default_factory=dict)
    seed: Annotated[int, Field(strict=True)] | None = None
    job_id: str | None = None
    plan_digest: str | None = None
    protect: str | None = None
    sites: tuple[str, ...] = ()
    rounds: Count | None = None
    resume: Flag = False
    majority_class: Number = None
    job_file: str | None = None


class End(Event):
    """The launcher has ended; ``outcome`` is ``ok``, ``failed`` or ``interrupted``."""

    event: ClassVar[str] = "end"
    outcome: str
    seconds: Number = None


class Bye(Event):
    """The relay ends in good order."""

    event: ClassVar[str] = "bye"


class Offload(Event):
    """What the accelerator has done since it began."""

    event: ClassVar[str] = "offload"
    calls: Count
    bytes_in: Count
    bytes_out: Count
    busy_seconds: Number = None


class Network(Event):
    """What the network engine is about; ``attempt`` to start a part of it again."""

    event: ClassVar[str] = "network"
    state: str
    attempt: Count | None = None


class Exchange(Event):
    """Messages to these sites are on their way."""

    event: ClassVar[str] = "exchange"
    sites: tuple[str, ...]
    bytes: Count


class Transfer(Event):
    """A message to a site came back answered (``reply``), or did not (``absent``)."""

    event: ClassVar[str] = "transfer"
    site: str
    outcome: str
    reason: str = ""
    attempts: Count = 1
    bytes_down: Count = 0
    bytes_up: Count = 0
    seconds: Number = None


class Log(Event):
    """A line of the network engine's own log."""

    event: ClassVar[str] = "log"
    message: str


_KINDS = kinds()


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
