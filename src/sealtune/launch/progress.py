"""What a run is doing, put together from its events. Draws nothing; ``display`` does.

In a federated job the sites train; in a split job they upload, and then the server enclave trains.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_DOING = {
    "train": "training",
    "evaluate": "evaluating",
    "pads": "making pads",
    "wait": "waiting for the others",
    "release": "taking over the result",
    "upload": "uploading",
}
_SENT = "all samples sent"


@dataclass
class Site:
    """One data owner's process; or the server enclave of a split job, which trains.

    Attributes:
        step, of: of training; while a site uploads, its chunks.
        counted: bytes of ``bytes_up`` that the next round event will state again.
    """

    doing: str = "loading the model"
    round: int = 0
    step: int = 0
    of: int = 0
    loss: float | None = None
    accuracy: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    counted: int = 0
    note: str = ""


@dataclass
class Progress:
    """The state of a run.

    Args:
        sites: names, in the order shown.
        rounds: how many the job asks for.
        top: in a split job, the server enclave; None as long as it may be a federated job.
    """

    sites: dict[str, Site]
    rounds: int
    top: Site | None = None
    server: str = "loading"
    last_round: str = ""
    rounds_done: int = 0
    accelerator: str = "loading"
    network: str = "starting"
    messages: int = 0
    training_since: float | None = None
    resumed_at: int | None = None
    notices: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, sites: tuple[str, ...], rounds: int, *, split: bool = False) -> Progress:
        """Before the first event; that it is a split job also follows from its first chunk."""
        return cls({site: Site() for site in sites}, rounds, Site() if split else None)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take in one event (with its ``time`` and ``role``); unknown ones change nothing."""
        role, kind = str(event.get("role", "")), str(event.get("event", ""))
        site = self.sites.get(role.removeprefix("client:")) if role.startswith("client:") else None
        if site is not None:
            self._client(site, role.removeprefix("client:"), kind, event)
        elif role == "server":
            self._server(kind, event)
        elif role == "accelerator":
            self._accelerator(kind, event)
        elif role == "flower":
            self._flower(kind, event)

    def seconds_left(self, now: float) -> float | None:
        """A guess at the training time that remains, when there is something to guess from."""
        first = self.resumed_at
        if self.training_since is None or first is None or not self.sites:
            return None
        workers = list(self.sites.values()) if self.top is None else [self.top]
        steps = [s.step / s.of for s in workers if s.of and s.round > self.rounds_done]
        if self.top is not None and self.top.doing == _DOING["evaluate"]:
            steps = [float(self.top.round > self.rounds_done)]  # its steps are done
        done = self.rounds_done + (sum(steps) / len(workers)) - first
        left = self.rounds - first - done
        if done < 0.02 or left <= 0:
            return None
        return (now - self.training_since) * left / done

    def _client(self, site: Site, name: str, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "ready":
            site.doing = "ready"
        elif kind == "phase" and event.get("phase") == "upload":
            self._is_split()
            site.doing, site.of = _DOING["upload"], _whole(event, "of", 0)
        elif kind in ("phase", "step"):
            self._work(site, kind, event)
        elif kind == "warning":
            cut, of = _whole(event, "count", 0), _whole(event, "of", 0)
            part = "test" if event.get("part") == "test" else "training"
            self.notices.append(
                f"{name}: {cut:,} of {of:,} {part} texts exceed data.max_tokens and are cut"
            )
        elif kind == "evaluated":
            total = _whole(event, "total", 0)
            site.accuracy = _whole(event, "correct", 0) / total if total else None
            site.doing, site.step, site.of = _DOING["wait"], 0, 0
        elif kind == "attested":
            self._attested(name, event)
        elif kind == "done":
            site.doing = "ended"

    def _work(self, site: Site, kind: str, event: Mapping[str, Any]) -> None:
        """A new phase of who trains, or a step in it."""
        site.round = _whole(event, "round", site.round)
        if kind == "step":
            site.step, site.of = _whole(event, "step", site.step), _whole(event, "of", site.of)
            site.loss = _number(event, "loss")
            return
        phase = str(event.get("phase", ""))
        site.doing = _DOING.get(phase, phase)
        site.step, site.of = 0, _whole(event, "of", 0)
        if phase == "train" and self.training_since is None:
            self.training_since = _number(event, "time")
            self.resumed_at = max(0, site.round - 1)

    def _is_split(self) -> Site:
        """The server enclave of what must be a split job, by what it or a site says."""
        if self.top is None:
            self.top = Site(self.server)
        return self.top

    def _top(self, kind: str, event: Mapping[str, Any]) -> None:
        """What only the server enclave of a split job says."""
        top = self._is_split()
        if kind in ("phase", "step"):
            self._work(top, kind, event)
        elif kind == "upload":
            self._chunk(event)
        elif kind == "heads":
            chosen = sum(map(len, _groups(event.get("heads"))))
            self.notices.append(f"{chosen:,} attention heads chosen to be tuned")
        elif kind == "exported":
            agreement = _number(event, "agreement")
            same = "" if agreement is None else f", the same answers in {agreement:.1%}"
            self.notices.append(f"adapter exported and read back{same}")

    def _chunk(self, event: Mapping[str, Any]) -> None:
        """The server enclave has taken in a chunk."""
        site, top = self.sites.get(str(event.get("site"))), self._is_split()
        if site is None:
            return
        site.step, site.of = _whole(event, "chunk", site.step), _whole(event, "of", site.of)
        sent = _whole(event, "bytes", site.counted)
        site.bytes_up += max(0, sent - site.counted)
        site.counted = max(sent, site.counted)
        if site.step >= site.of:
            site.doing, site.step, site.of = _SENT, 0, 0
        done = all(one.doing == _SENT for one in self.sites.values())
        top.doing = "loading the later blocks" if done else "collecting samples"

    def _server(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind in ("upload", "heads", "phase", "step", "exported"):
            self._top(kind, event)
            return
        if kind == "ready":
            self.server = "ready"
        elif kind == "attested":
            self._attested("server", event)
            self.server = "checking who is who"
        elif kind == "round":
            self.rounds_done = _whole(event, "round", self.rounds_done)
            self._round(event)
        elif kind == "final":
            self._outcomes(event)
            self.server = "finishing"
        elif kind == "done":
            self.server = "done"
        if self.top is not None and kind in ("ready", "attested", "final", "done"):
            self.top.doing, self.top.step, self.top.of = self.server, 0, 0

    def _round(self, event: Mapping[str, Any]) -> None:
        number, ok, total = self.rounds_done, *self._outcomes(event)
        accuracy = pooled_accuracy(event)
        name = f"round {number} of {self.rounds}" if number else "before training"
        line = f"{name}: {ok} of {total} sites"
        loss = pooled_loss(event)
        if loss is not None:
            line += f", loss {loss:.3f}"
        if accuracy is not None:
            line += f", accuracy {accuracy:.1%}"
        seconds = _number(event, "seconds")
        if seconds is not None:
            line += f", {seconds:.0f} s"
        self.server = self.last_round = line
        self.notices.append(line)
        if self.top is not None:
            self.top.doing, self.top.step, self.top.of = "keeping a checkpoint", 0, 0
            self.top.accuracy = self.top.accuracy if accuracy is None else accuracy

    def _outcomes(self, event: Mapping[str, Any]) -> tuple[int, int]:
        """Add up what the sites of a round report; returns (answered, asked)."""
        ok, entries = 0, _sites(event)
        for name, entry in entries.items():
            site = self.sites.get(name)
            if site is None:
                continue
            site.bytes_down += _whole(entry, "bytes_down", 0)
            site.bytes_up += max(0, _whole(entry, "bytes_up", 0) - site.counted)
            site.counted = 0
            total = _whole(entry, "total", 0)
            if total:
                site.accuracy = _whole(entry, "correct", 0) / total
            if entry.get("outcome") == "ok":
                ok, site.note = ok + 1, ""
            else:
                site.note = f"{entry.get('outcome', 'failed')}: {entry.get('reason', '')}"
                self.notices.append(f"{name} {site.note}")
        return ok, len(entries)

    def _attested(self, by: str, event: Mapping[str, Any]) -> None:
        if event.get("kind") == "participant":
            self.notices.append(f"{by} knows {event.get('who', '?')} by its participant key")
            return
        sort = "confidential" if event.get("confidential") is True else "NOT confidential"
        who, kind = event.get("who", "?"), event.get("kind", "?")
        self.notices.append(f"{by} accepted {who}'s evidence ({kind}, {sort})")

    def _accelerator(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "ready":
            self.accelerator = "ready"
        elif kind == "offload":
            moved = _whole(event, "bytes_in", 0) + _whole(event, "bytes_out", 0)
            self.accelerator = f"{_whole(event, 'calls', 0):,} calls, {size(moved)} of codes"

    def _flower(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "network":
            self.network = str(event.get("state", ""))
            if event.get("attempt") == 1:
                self.notices.append(self.network)
        elif kind == "exchange":
            self._under_way(event)
        elif kind == "transfer":
            self.messages += 1
            self.network = f"{self.messages} sealed exchanges"
            if event.get("outcome") == "absent":
                self.notices.append(f"{event.get('site')} is absent: {event.get('reason')}")
        elif kind == "log":
            self.notices.append(str(event.get("message", "")))

    def _under_way(self, event: Mapping[str, Any]) -> None:
        self.network = f"{self.messages} sealed exchanges, one more under way"
        names = event.get("sites")
        for name in names if isinstance(names, list) else []:
            site = self.sites.get(name)
            if site is not None and site.doing in ("ready", _DOING["wait"], _SENT):
                site.doing = "a message is on its way"


def pooled_accuracy(event: Mapping[str, Any]) -> float | None:
    """Correct over total of all sites of a round or final event."""
    entries = _sites(event).values()
    total = sum(_whole(entry, "total", 0) for entry in entries)
    return sum(_whole(entry, "correct", 0) for entry in entries) / total if total else None


def pooled_loss(event: Mapping[str, Any]) -> float | None:
    """Training loss of a round: the server's own, else that of the sites averaged over examples."""
    if "train_loss" in event:
        return _number(event, "train_loss")
    pairs = [
        (_number(entry, "train_loss"), _whole(entry, "examples", 0))
        for entry in _sites(event).values()
    ]
    known = [(loss, count) for loss, count in pairs if loss is not None and count > 0]
    total = sum(count for _, count in known)
    return sum(loss * count for loss, count in known) / total if total else None


def _groups(heads: object) -> list[list[Any]]:
    """The lists in attention module -> group -> numbers of heads."""
    modules = heads.values() if isinstance(heads, Mapping) else ()
    groups = [group for one in modules if isinstance(one, Mapping) for group in one.values()]
    return [group for group in groups if isinstance(group, list)]


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def duration(seconds: float) -> str:
    """A time span for people."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _sites(event: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    sites = event.get("sites")
    if not isinstance(sites, Mapping):
        return {}
    return {name: entry for name, entry in sites.items() if isinstance(entry, Mapping)}


def _whole(event: Mapping[str, Any], key: str, default: int) -> int:
    value = event.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _number(event: Mapping[str, Any], key: str) -> float | None:
    value = event.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
