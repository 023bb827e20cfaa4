"""What the run cost: bytes on each link, seconds by where they went, memory by process.

How the wall time is split. A round lasts ``wall`` seconds, seen from the server. Site ``s`` reports
its own seconds by these parts (``BUSY``); their sum is ``busy(s)``. The server of a
split job reports its own ``server`` seconds: training and testing, while no site computes. That of
a federated job reports none, so they are 0. Then

    network = wall - server - max over sites of busy   sealing, Flower, aggregation: nobody computed
    waiting = max over sites of busy - busy(s)         site s was done, another was not

so that the parts of every site add up to ``wall``. The figures for the run are the mean over
sites, summed over rounds; ``other`` is the rest of the wall time: starting processes, loading the
model, the handshake, the export. Pads that were made while a site waited are not counted.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Callable

from sealtune.job.event_log import End, Offload
from sealtune.job.events import Event, Memory, Round
from sealtune.report.log import RunLog, entry
from sealtune.report.methods import View
from sealtune.report.values import Json, add, mean, ratio

BUSY = ("enclave", "passes", "accelerator", "pads")
PADS = "pad-accelerator"
PARTS = (*BUSY, "server", "network", "waiting")


def traffic(log: RunLog, view: View) -> Json:
    """Bytes by link: sites <-> server (sealed), enclaves <-> accelerator, and its calls."""
    per_site = [view.site_bytes(log, site) for site in log.sites]
    return {
        "up": add(b["up"] for b in per_site),
        "down": add(b["down"] for b in per_site),
        "enclave_to_accelerator": counter(log, "accelerator", lambda event: event.bytes_in),
        "accelerator_to_enclave": counter(log, "accelerator", lambda event: event.bytes_out),
        "accelerator_calls": counter(log, "accelerator", lambda event: event.calls),
        "pad_accelerator_to_enclave": counter(log, PADS, lambda event: event.bytes_out),
    }


def counter(log: RunLog, role: str, key: Callable[[Offload], int]) -> float | None:
    """A running total of the ``offload`` events of ``role``, added up over restarts.

    An accelerator repeats its totals since start; a total that falls means a new process.
    """
    ended: float = 0
    latest: int | None = None
    for event in log.of(Offload):
        if event.role != role:
            continue
        value = key(event)
        if value < (latest or 0):
            ended += latest or 0
        latest = value
    return None if latest is None else ended + latest


def total_seconds(log: RunLog) -> float | None:
    """Wall time over all attempts; one without an end counts up to its last event."""
    return add(_attempt_seconds(attempt) for attempt in log.attempts or (log.events,))


def _attempt_seconds(events: tuple[Event, ...]) -> float | None:
    for event in reversed(events):
        if isinstance(event, End) and event.seconds is not None:
            return event.seconds
    times = [event.time for event in events if event.time is not None]
    return times[-1] - times[0] if len(times) > 1 else None


def site_seconds(log: RunLog) -> dict[str, Json]:
    """Each site's seconds by part, summed over the rounds it took part in; ``None``: no record."""
    sums: dict[str, dict[str, float]] = {}
    for event in log.stages:
        for site, parts in _split_round(log, event).items():
            total = sums.setdefault(site, dict.fromkeys(PARTS, 0.0))
            for part, value in parts.items():
                total[part] += value
    return {s: dict(sums.get(s, dict.fromkeys(PARTS, None))) for s in log.sites}


def _split_round(log: RunLog, event: Round) -> dict[str, dict[str, float]]:
    """One round's wall time by site and part, for the sites that delivered and reported times.

    Of a site that failed the server knows no times (it writes zeros), so none are assumed.
    """
    parts: dict[str, dict[str, float]] = {}
    for site in log.sites:
        own = entry(event, site)
        stated = own.seconds if own.outcome == "ok" else None
        if stated is not None and stated.model_dump(exclude_none=True):
            parts[site] = {part: getattr(stated, part) or 0.0 for part in BUSY}
    if not parts:
        return {}
    busy = {site: sum(values.values()) for site, values in parts.items()}
    slowest = max(busy.values())
    wall, server = event.seconds, event.server_seconds or 0.0
    for site, values in parts.items():
        values["server"] = server
        values["network"] = max(0.0, wall - server - slowest) if wall is not None else 0.0
        values["waiting"] = slowest - busy[site]
    return parts


def seconds(log: RunLog) -> tuple[Json, Json]:
    """Seconds of the run by part (see the module's text), and each part's share of their sum."""
    rounds = [parts for event in log.stages if (parts := _split_round(log, event))]
    total = total_seconds(log)
    if not rounds:
        empty = dict.fromkeys((*PARTS, "other"), None)
        return {"total": total, **empty}, dict(empty)
    sums = {
        p: sum(mean(own[p] for own in sites.values()) or 0.0 for sites in rounds) for p in PARTS
    }
    other = max(0.0, total - sum(sums.values())) if total is not None else None
    figures: dict[str, float | None] = {**sums, "other": other}
    whole = add(figures.values())
    return {"total": total, **figures}, {part: ratio(v, whole) for part, v in figures.items()}


def peak_memory(log: RunLog) -> Json:
    """Largest resident memory by role, in MiB."""
    peaks: Json = {}
    for event in log.of(Memory):
        if event.peak_mib is not None:
            peaks[event.role] = max(event.peak_mib, peaks.get(event.role, 0))
    order = ["server", *(f"client:{site}" for site in log.sites), "accelerator", PADS, "flower"]
    return dict(sorted(peaks.items(), key=lambda p: order.index(p[0]) if p[0] in order else 99))
