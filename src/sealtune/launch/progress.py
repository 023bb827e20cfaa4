"""What a run is doing, put together from its events. Draws nothing; ``display`` does.

Whoever trains, each site or the server enclave, says ``phase`` and ``step``; a site that does not
train uploads.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sealtune.job import event_log, events, training_events
from sealtune.job.events import Event
from sealtune.job.units import duration, size

_DOING = {
    "train": "training",
    "evaluate": "evaluating",
    "pads": "making pads",
    "wait": "waiting for the others",
    "release": "taking over the result",
    "personal": "going on alone",
    "upload": "uploading",
    "warm": "choosing heads",
}
_SENT = "all samples sent"
_SERVER = "server"
_OWNER = "client:"


@dataclass
class Worker:
    """A site's process, or the server enclave.

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

    def begin(self, doing: str, of: int = 0) -> None:
        """Something else to do, of so many steps."""
        self.doing, self.step, self.of = doing, 0, of


@dataclass
class Progress:
    """The state of a run.

    Args:
        sites: names, in the order shown.
        rounds: how many the job asks for.
        server_trains: the server enclave does, on what the sites send, without an accelerator.
        server_name: what the server's process is called.
    """

    sites: dict[str, Worker]
    rounds: int
    server_trains: bool
    server_name: str
    server: Worker = field(default_factory=lambda: Worker("loading"))
    last_round: str = ""
    rounds_done: int = 0
    accelerator: str = "loading"
    pads: str = ""
    network: str = "starting"
    messages: int = 0
    training_since: float | None = None
    resumed_at: int | None = None
    notices: list[str] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        sites: tuple[str, ...],
        rounds: int,
        *,
        server_trains: bool = False,
        server_name: str = "server enclave",
        accelerator: str = "loading",
        pads: str = "",
    ) -> Progress:
        """Before the first event; ``accelerator`` and ``pads`` are empty where there are none."""
        workers = {site: Worker() for site in sites}
        return cls(workers, rounds, server_trains, server_name, accelerator=accelerator, pads=pads)

    @property
    def trainers(self) -> list[Worker]:
        """Those whose steps are the work."""
        return [self.server] if self.server_trains else list(self.sites.values())

    def apply(self, event: Event) -> None:
        """Take in one event (with its ``time`` and ``role``); unknown roles change nothing."""
        site = event.role.removeprefix(_OWNER)
        if event.role.startswith(_OWNER) and site in self.sites:
            self._site(self.sites[site], site, event)
        elif event.role == _SERVER:
            self._server(event)
        elif event.role == "accelerator":
            self.accelerator = _served(event) or self.accelerator
        elif event.role == "pad-accelerator":
            self.pads = _served(event) or self.pads
        elif event.role == "flower":
            self._flower(event)

    def seconds_left(self, now: float) -> float | None:
        """A guess at the training time that remains, when there is something to guess from."""
        first = self.resumed_at
        if self.training_since is None or first is None or not self.trainers:
            return None
        under_way = [worker for worker in self.trainers if worker.round > self.rounds_done]
        steps = sum(map(self._share, under_way)) / len(self.trainers)
        done = self.rounds_done + steps - first
        left = self.rounds - first - done
        if done < 0.02 or left <= 0:
            return None
        return (now - self.training_since) * left / done

    def _share(self, worker: Worker) -> float:
        """Of a round's steps, those that are done."""
        if worker is self.server and worker.doing == _DOING["evaluate"]:
            return 1.0
        return worker.step / worker.of if worker.of else 0.0

    def _site(self, site: Worker, name: str, event: Event) -> None:
        match event:
            case events.Ready():
                site.doing = "ready"
            case training_events.Phase(phase="upload"):
                site.doing, site.of = _DOING["upload"], event.of
            case training_events.Phase() | training_events.Step():
                self._work(site, event)
            case training_events.Products(slow=str(why)):
                self.notices.append(f"{name}: masked products take many times as long: {why}")
            case training_events.Computing():
                self._computing(name, event)
            case training_events.CutTexts():
                self.notices.append(
                    f"{name}: {event.count:,} of {event.of:,} {event.part} texts exceed "
                    "data.max_tokens and are cut"
                )
            case events.Refused():
                self.notices.append(f"{name} refuses the server: {event.message} ({event.hint})")
            case training_events.Evaluated():
                site.accuracy = event.correct / event.total if event.total else None
                site.begin(_DOING["wait"])
            case training_events.Personal():
                share = f"{event.correct / event.total:.1%}" if event.total else "–"
                self.notices.append(
                    f"{name}: own adapter, {event.steps} steps on alone: {share} of own rows right"
                )
            case events.Attested():
                self._attested(event)
            case events.Done():
                site.doing = "ended"

    def _work(self, worker: Worker, event: training_events.Phase | training_events.Step) -> None:
        """A new phase of who trains, or a step in it."""
        worker.round = event.round
        if isinstance(event, training_events.Step):
            worker.step, worker.of, worker.loss = event.step, event.of, event.loss
            return
        worker.begin(_DOING.get(event.phase, event.phase), event.of)
        if event.phase == "train" and self.training_since is None:
            self.training_since = event.time
            self.resumed_at = max(0, worker.round - 1)

    def _server(self, event: Event) -> None:
        match event:
            case training_events.Phase() | training_events.Step():
                self._work(self.server, event)
            case training_events.Upload():
                self._chunk(event)
            case training_events.Computing():
                self._computing("server", event)
            case training_events.Heads():
                chosen = sum(len(h) for groups in event.heads.values() for h in groups.values())
                self.notices.append(f"{chosen:,} attention heads chosen to be tuned")
            case training_events.Exported():
                same = event.agreement
                words = "" if same is None else f", the same answers in {same:.1%}"
                self.notices.append(f"adapter exported and read back{words}")
            case events.Ready():
                self.server.begin("ready")
            case events.Attested():
                self._attested(event)
                self.server.begin("checking who is who")
            case events.Final():
                self._outcomes(event)
                self.server.begin("finishing")
            case events.Round():
                self._round(event)
            case events.PrivacySpent():
                self.notices.append(privacy_line(event, self.rounds))
            case events.Done():
                self.server.begin("done")

    def _computing(self, name: str, event: training_events.Computing) -> None:
        """Where somebody computes, if that is worth a word."""
        if event.stands_in:
            what = event.name or "the processor"
            self.notices.append(
                f"{name}: SIMULATED: {what} stands in for an attested GPU, and proves nothing"
            )
        elif event.name:
            self.notices.append(f"{name} computes on {event.name}")
        if event.slow:
            words = f"train.precision = {event.precision} takes longer than fp32 here"
            self.notices.append(f"{name}: {words}: {event.slow}")

    def _chunk(self, event: training_events.Upload) -> None:
        """The server enclave has taken in a chunk."""
        site = self.sites.get(event.site)
        if site is None:
            return
        site.step, site.of = event.chunk, event.of
        site.bytes_up += max(0, event.bytes - site.counted)
        site.counted = max(event.bytes, site.counted)
        if site.step >= site.of:
            site.begin(_SENT)
        complete = all(worker.doing == _SENT for worker in self.sites.values())
        self.server.doing = "loading the later blocks" if complete else "collecting samples"

    def _round(self, event: events.Round) -> None:
        self.rounds_done = number = event.round
        ok = self._outcomes(event)
        idle = [site for site, one in event.sites.items() if one.outcome == events.NOT_ASKED]
        name = f"round {number} of {self.rounds}" if number else "before training"
        line = f"{name}: {ok} of {len(event.sites) - len(idle)} sites"
        if idle:
            line += f" (not asked: {', '.join(idle)})"
        loss, accuracy = pooled_loss(event), pooled_accuracy(event)
        if loss is not None:
            line += f", loss {loss:.3f}"
        if accuracy is not None:
            line += f", accuracy {accuracy:.1%}"
            self.server.accuracy = accuracy
        if event.seconds is not None:
            line += f", {duration(event.seconds)}"
        self.last_round = line
        self.notices.append(line)
        self.server.begin("keeping a checkpoint" if self.server_trains else line)

    def _outcomes(self, event: events.Round) -> int:
        """Add up what the sites of a round report; returns how many answered."""
        for name, entry in event.sites.items():
            site = self.sites.get(name)
            if site is None:
                continue
            site.bytes_down += entry.bytes_down or 0
            site.bytes_up += max(0, (entry.bytes_up or 0) - site.counted)
            site.counted = 0
            if entry.total:
                site.accuracy = (entry.correct or 0) / entry.total
            well = entry.outcome in ("ok", events.NOT_ASKED)
            site.note = "" if well else f"{entry.outcome}: {entry.reason}"
            if site.note:
                self.notices.append(f"{name} {site.note}")
            if entry.outlier:
                self.notices.append(f"{name} is an outlier: its update points elsewhere")
        return sum(entry.outcome == "ok" for entry in event.sites.values())

    def _attested(self, event: events.Attested) -> None:
        """A verdict, told by the process that gave it; nobody speaks for another."""
        if event.role.removeprefix(_OWNER) != event.by:
            return
        if event.kind == "participant":
            self.notices.append(f"{event.by} knows {event.who} by its participant key")
            return
        if event.kind == "unattested":
            self.notices.append(f"{event.by} has a channel to a {event.who} that proves nothing")
            return
        sort = "confidential" if event.confidential else "NOT confidential"
        self.notices.append(f"{event.by} accepted {event.who}'s evidence ({event.kind}, {sort})")

    def _flower(self, event: Event) -> None:
        match event:
            case event_log.Network():
                self.network = event.state
                if event.attempt == 1:
                    self.notices.append(self.network)
            case event_log.Exchange():
                self.network = f"{self.messages} sealed exchanges, one more under way"
                for site in (self.sites[name] for name in event.sites if name in self.sites):
                    if site.doing in ("ready", _DOING["wait"], _SENT):
                        site.doing = "a message is on its way"
            case event_log.Transfer():
                self.messages += 1
                self.network = f"{self.messages} sealed exchanges"
                if event.outcome == "absent":
                    self.notices.append(f"{event.site} is absent: {event.reason}")
            case event_log.Log():
                self.notices.append(event.message)


def _served(event: Event) -> str:
    """What an accelerator has done, as far as an event says."""
    match event:
        case events.Ready():
            return "ready"
        case event_log.Offload():
            return f"{event.calls:,} calls, {size(event.bytes_in + event.bytes_out)} of codes"
    return ""


def privacy_line(event: events.PrivacySpent, rounds: int) -> str:
    """What has been spent of the budget, and whether that was all."""
    spent, budget, delta = event.epsilon or 0.0, event.budget or 0.0, event.delta or 0.0
    line = f"privacy: epsilon {spent:.3g} of {budget:g}, delta {delta:g}"
    if event.ended:
        return (
            f"{line}: the budget is spent after round {event.round} of {rounds}, whose adapter is "
            "the result"
        )
    return f"{line} after round {event.round}"


def pooled_accuracy(event: events.Round) -> float | None:
    """Correct over total of all sites of a round."""
    if event.total:
        return (event.correct or 0) / event.total
    total = sum(entry.total or 0 for entry in event.sites.values())
    return sum(entry.correct or 0 for entry in event.sites.values()) / total if total else None


def pooled_loss(event: events.Round) -> float | None:
    """Training loss of a round: the server's own, else that of the sites averaged over examples."""
    if "train_loss" in event.model_fields_set:
        return event.train_loss
    pairs = [
        (entry.train_loss, entry.examples)
        for entry in event.sites.values()
        if entry.train_loss is not None and entry.examples
    ]
    total = sum(count for _, count in pairs)
    return sum(loss * count for loss, count in pairs) / total if total else None
