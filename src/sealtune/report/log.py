"""Read a run folder into one immutable value.

``metrics.jsonl`` may end in the middle of a line (a killed launcher) and may hold several attempts
of one job (a resumed run appends): the last word on a round counts.

Trust domain: server operator.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from sealtune.errors import StorageError
from sealtune.job.event_log import Start, parse
from sealtune.job.events import Busy, Event, Final, Round, SiteRound
from sealtune.job.training_events import Evaluated, Step, Uploaded, Worked
from sealtune.report.values import Json, table, text

METRICS = "metrics.jsonl"
MANIFEST = "job.manifest.json"
AUDIT = "audit.json"
BASELINES = ("local", "pooled", "plain-federated")
E = TypeVar("E", bound=Event)
R = TypeVar("R", bound=Round)


@dataclass(frozen=True)
class RunLog:
    """Everything a report is made of."""

    events: tuple[Event, ...]  # those of ``metrics.jsonl``, in order
    signed: Json  # what was signed, as ``_read_signed`` gives it, or an empty object
    baselines: dict[str, Json]  # contents of ``baselines/<kind>.json`` by kind
    unreadable: int  # number of lines of ``metrics.jsonl`` that are no events
    audit: Json  # contents of ``audit.json``, or an empty object

    def of(self, kind: type[E], role: str | None = None) -> Iterator[E]:
        """All events of one kind in order, of one process or all."""
        return (e for e in self.events if type(e) is kind and role in (None, e.role))

    def last(self, kind: type[E]) -> E | None:
        """The last event of a kind."""
        return next((e for e in reversed(self.events) if type(e) is kind), None)

    @cached_property
    def start(self) -> Start:
        """What the ``start`` events state, the last word on each key (a resume may not repeat)."""
        merged: Json = {}
        for event in self.of(Start):
            merged |= event.model_dump(exclude_unset=True, exclude_none=True)
        return Start(**merged)

    @cached_property
    def job(self) -> Json:
        """The job's settings."""
        return table(self.signed.get("settings"))

    @cached_property
    def plan(self) -> Json:
        """The slice plan."""
        return table(self.signed.get("plan"))

    def setting(self, section: str, key: str) -> object:
        """One value of the settings, or ``None``."""
        return table(self.job.get(section)).get(key)

    @cached_property
    def pad_operators(self) -> str | None:
        """Who ran accelerators and pad accelerators: ``independent`` organisations, or one and the
        same (``simulated``); None: there were no pad accelerators.
        """
        sites = table(self.signed.get("pad_accelerators")).values()
        stated = {text(table(one).get("operators")) for one in sites}
        return None if not stated else "independent" if stated == {"independent"} else "simulated"

    @cached_property
    def method(self) -> str | None:
        """The method's name; settings of old runs do not say."""
        stated = text(self.signed.get("method")) or text(self.setting("job", "method"))
        if stated is None and (self.job or self.start.protect):
            return "split" if self.start.protect == "split" else "federated-lora"
        return stated

    @cached_property
    def rounds(self) -> dict[int, Round]:
        """The server's rounds by number (0 is the evaluation before training), ascending."""
        last = {event.round: event for event in self.of(Round)}
        return {number: self._with_own(last[number]) for number in sorted(last)}

    @cached_property
    def training_rounds(self) -> dict[int, Round]:
        """Rounds that trained: all but round 0."""
        return {number: event for number, event in self.rounds.items() if number > 0}

    @cached_property
    def final(self) -> Final | None:
        """The evaluation after the last round."""
        last = self.last(Final)
        return last and self._with_own(last)

    @property
    def stages(self) -> tuple[Round, ...]:
        """All rounds, and the final evaluation if there was one."""
        return (*self.rounds.values(), *([self.final] if self.final else ()))

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Site names in the job's order, then any further ones that the events mention."""
        listed = self.setting("sites", "names")
        names = dict.fromkeys(map(str, listed) if isinstance(listed, list) else ())
        for mentioned in (self.start.sites, *(event.sites for event in self.stages)):
            names |= dict.fromkeys(mentioned)
        return tuple(names)

    @cached_property
    def attempts(self) -> tuple[tuple[Event, ...], ...]:
        """Events cut at every ``start``: one slice for each time the job was launched."""
        cuts = [i for i, event in enumerate(self.events) if isinstance(event, Start)]
        return tuple(self.events[a:b] for a, b in pairwise([*cuts, len(self.events)]))

    def steps(self, role: str) -> dict[tuple[int, int], Step]:
        """Training steps of one process by (round, step); a repeated step replaces the earlier."""
        return dict(sorted({(e.round, e.step): e for e in self.of(Step, role)}.items()))

    def evaluations(self, site: str) -> dict[int, Evaluated]:
        """The site's own evaluations by round, the last one of a round."""
        return {event.round: event for event in self.of(Evaluated, f"client:{site}")}

    def _with_own(self, event: R) -> R:
        """A round in which sites speak for themselves where the server keeps their figures back."""
        sites = {
            site: self._own(event, site).model_copy(
                update={key: getattr(stated, key) for key in stated.model_fields_set}
            )
            if stated.outcome == "ok"
            else stated
            for site, stated in event.sites.items()
        }
        return event.model_copy(update={"sites": sites})

    def _own(self, event: Round, site: str) -> SiteRound:
        """What the site's own process said of its part of a round."""
        stage = "release" if isinstance(event, Final) else "train" if event.round else "evaluate"
        said: Json = {}
        for worked in self.of(Worked, f"client:{site}"):
            if (worked.round, worked.stage) == (event.round, stage):
                said = worked.model_dump(include={"train_loss", "seconds"}, exclude_none=True)
        found = None if stage == "train" else self.evaluations(site).get(event.round)
        if found:
            said |= found.model_dump(include={"correct", "total", "loss"})
        made = {e.chunk: e.seconds or 0.0 for e in self.of(Uploaded, f"client:{site}")}
        if made and stage == "evaluate":  # a split job's site computes before the first round only
            said["seconds"] = Busy(
                enclave=sum(made.values()), accelerator=0.0, pads=0.0, passes=0.0
            )
        return SiteRound.model_validate(said)

    def started(self) -> float | None:
        """Unix time of the first event that has one."""
        return next((event.time for event in self.events if event.time is not None), None)


def entry(event: Round | None, site: str) -> SiteRound:
    """One site's part of a round; empty if it has none."""
    return (event.sites.get(site) if event else None) or SiteRound()


def read_run(run_dir: Path) -> RunLog:
    """Read a run folder.

    Raises:
        StorageError: the folder holds neither log nor manifest, or one cannot be read.
    """
    metrics = run_dir / METRICS
    if not any((run_dir / name).is_file() for name in (METRICS, MANIFEST)):
        raise StorageError(
            f"{run_dir} is not a run folder: it holds neither {METRICS} nor {MANIFEST}",
            hint="give the folder that `sealtune run` wrote, such as runs/my-job",
        )
    lines = [line for line in _read_text(metrics).splitlines() if line.strip()]
    events = [event for event in map(parse, lines) if event is not None]
    baselines = {k: _read_object(run_dir / "baselines" / f"{k}.json") for k in BASELINES}
    return RunLog(
        events=tuple(events),
        signed=_read_signed(run_dir),
        baselines={kind: figures for kind, figures in baselines.items() if figures},
        unreadable=len(lines) - len(events),
        audit=_read_object(run_dir / AUDIT),
    )


def _read_signed(run_dir: Path) -> Json:
    """The manifest's keys with ``model_digest`` and ``job_id``; signatures are not looked at."""
    payload = text(_read_object(run_dir / MANIFEST).get("payload"))
    try:
        data = base64.b64decode(payload or "", validate=True)
    except (binascii.Error, ValueError):
        return {}
    signed = _parse(data.decode("utf-8", "replace"))
    if not signed:
        return {}
    model, settings = table(signed.get("model")), table(signed.get("settings"))
    named = {**table(settings.get("model")), "path": model.get("name")}
    return {
        **signed,
        "settings": {**settings, "model": named},
        "model_digest": model.get("digest"),
        "job_id": hashlib.sha384(data).hexdigest(),
    }


def _read_object(path: Path) -> Json:
    return _parse(_read_text(path))


def _read_text(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _parse(line: str) -> Json:
    """A JSON object, or an empty one for anything else (a torn line, a bare number)."""
    try:
        return table(json.loads(line))
    except (ValueError, RecursionError):
        return {}
