"""Read a run folder into one immutable value.

``metrics.jsonl`` may end in the middle of a line (a killed launcher) and may hold several attempts
of one job (a resumed run appends): the last word on a round counts.

Trust domain: server operator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from sealtune.errors import StorageError
from sealtune.report.values import Json, number, table, text, whole

METRICS = "metrics.jsonl"
RESOLVED = "job.resolved.json"
BASELINES = ("local", "pooled", "plain-federated")


@dataclass(frozen=True)
class RunLog:
    """Everything a report is made of.

    Attributes:
        events: the lines of ``metrics.jsonl``, in order.
        resolved: ``job.resolved.json``, or an empty object.
        baselines: contents of ``baselines/<kind>.json`` by kind.
        unreadable: number of lines of ``metrics.jsonl`` that are not JSON objects.
    """

    events: tuple[Json, ...]
    resolved: Json = field(default_factory=dict)
    baselines: dict[str, Json] = field(default_factory=dict)
    unreadable: int = 0

    def of(self, kind: str) -> Iterator[Json]:
        """All events of one kind, in order."""
        return (event for event in self.events if event.get("event") == kind)

    def started_with(self, key: str) -> object:
        """A value of the last ``start`` event that has it (a resumed run may not repeat all)."""
        stated = [event[key] for event in self.of("start") if event.get(key) is not None]
        return stated[-1] if stated else None

    def last(self, kind: str) -> Json:
        """The last event of a kind, or an empty object."""
        return next((e for e in reversed(self.events) if e.get("event") == kind), {})

    @cached_property
    def job(self) -> Json:
        """The job's settings, as in ``job.toml``."""
        return table(self.resolved.get("job"))

    def setting(self, section: str, key: str) -> object:
        """One value of the job file, or ``None``."""
        return table(self.job.get(section)).get(key)

    @cached_property
    def method(self) -> str | None:
        """``federated-lora`` or ``split``; job files of old runs do not say."""
        stated = text(self.setting("job", "method"))
        if stated is None and (self.job or self.started_with("protect")):
            split = self.started_with("protect") == "split"
            stated = "split" if split else "federated-lora"
        return stated

    @property
    def is_split(self) -> bool:
        """Whether one server enclave tuned the later blocks on all sites' samples."""
        return self.method == "split"

    @cached_property
    def rounds(self) -> dict[int, Json]:
        """Server's round events by number (0 is the evaluation before training), ascending."""
        found: dict[int, Json] = {}
        for event in self.of("round"):
            index = whole(event.get("round"))
            if index is not None:
                found[index] = event
        return dict(sorted(found.items()))

    @cached_property
    def training_rounds(self) -> dict[int, Json]:
        """Rounds that trained: all but round 0."""
        return {r: event for r, event in self.rounds.items() if r > 0}

    @cached_property
    def final(self) -> Json:
        """The evaluation after the last round, or an empty object."""
        return self.last("final")

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Site names in the job's order, then any further ones that the events mention."""
        names: dict[str, None] = {}
        for listed in (self.setting("sites", "names"), self.started_with("sites")):
            if isinstance(listed, list | tuple):
                names.update(dict.fromkeys(str(name) for name in listed))
        for event in (*self.rounds.values(), self.final):
            names.update(dict.fromkeys(table(event.get("sites"))))
        return tuple(names)

    @cached_property
    def attempts(self) -> tuple[tuple[Json, ...], ...]:
        """Events cut at every ``start``: one slice for each time the job was launched."""
        cuts = [i for i, event in enumerate(self.events) if event.get("event") == "start"]
        bounds = [*cuts, len(self.events)]
        return tuple(self.events[a:b] for a, b in pairwise(bounds))

    def entry(self, event: Json, site: str) -> Json:
        """One site's part of a ``round`` or ``final`` event."""
        return table(table(event.get("sites")).get(site))

    def steps(self, role: str) -> dict[tuple[int, int], Json]:
        """Training steps of one process by (round, step); a repeated step replaces the earlier.

        Args:
            role: ``client:<site>``; in a split job ``server``.
        """
        found: dict[tuple[int, int], Json] = {}
        for event in self.of("step"):
            r, i = whole(event.get("round")), whole(event.get("step"))
            if event.get("role") == role and r is not None and i is not None:
                found[(r, i)] = event
        return dict(sorted(found.items()))

    def evaluations(self, site: str) -> dict[int, Json]:
        """The site's own ``evaluated`` events by round, the last one of a round."""
        found: dict[int, Json] = {}
        for event in self.of("evaluated"):
            r = whole(event.get("round"))
            if event.get("role") == f"client:{site}" and r is not None:
                found[r] = event
        return found

    def started(self) -> float | None:
        """Unix time of the first event that has one."""
        times = (number(event.get("time")) for event in self.events)
        return next((t for t in times if t is not None), None)

    def name(self) -> str | None:
        """The job's name."""
        return text(self.setting("job", "name"))


def read_run(run_dir: Path) -> RunLog:
    """Read a run folder.

    Raises:
        StorageError: the folder holds neither file, or one cannot be read.
    """
    metrics, resolved = run_dir / METRICS, run_dir / RESOLVED
    if not metrics.is_file() and not resolved.is_file():
        raise StorageError(
            f"{run_dir} is not a run folder: it holds neither {METRICS} nor {RESOLVED}",
            hint="give the folder that `sealtune run` wrote, such as runs/my-job",
        )
    events, unreadable = _read_lines(metrics)
    found = {k: _read_object(run_dir / "baselines" / f"{k}.json") for k in BASELINES}
    return RunLog(
        events=events,
        resolved=_read_object(resolved),
        baselines={kind: value for kind, value in found.items() if value},
        unreadable=unreadable,
    )


def _read_lines(path: Path) -> tuple[tuple[Json, ...], int]:
    events: list[Json] = []
    unreadable = 0
    for line in _read_text(path).splitlines():
        if not line.strip():
            continue
        event = _parse(line)
        if event:
            events.append(event)
        else:
            unreadable += 1
    return tuple(events), unreadable


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
