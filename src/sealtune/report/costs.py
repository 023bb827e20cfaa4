"""What the run cost: bytes on each link, seconds by where they went, memory by process.

How the wall time is split. A round lasts ``wall`` seconds, seen from the server. Site ``s`` reports
its own ``enclave``, ``accelerator`` and ``pads`` seconds; their sum is ``busy(s)``. The server of a
split job reports its own ``server`` seconds: training and testing, while no site computes. That of
a federated job reports none, so they are 0. Then

    network = wall - server - max over sites of busy   sealing, Flower, aggregation: nobody computed
    waiting = max over sites of busy - busy(s)         site s was done, another was not

so that the six parts of every site add up to ``wall``. The figures for the run are the mean over
sites, summed over rounds; ``other`` is the rest of the wall time: starting processes, loading the
model, the handshake, the export. Pads made in idle time can overlap other parts: then the parts add
up to more than ``total``, and shares are shares of the parts' sum.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.report import uploads
from sealtune.report.log import RunLog
from sealtune.report.values import Json, add, mean, number, ratio, table, text, whole

BUSY = ("enclave", "accelerator", "pads")
PARTS = (*BUSY, "server", "network", "waiting")


def site_bytes(log: RunLog, site: str) -> Json:
    """Sealed bytes of one site over all rounds: ``up`` to the server, ``down`` from it."""
    if log.is_split:
        return uploads.site_bytes(log, site)
    entries = [log.entry(e, site) for e in (*log.rounds.values(), log.final)]
    return {way: add(whole(e.get(f"bytes_{way}")) for e in entries) for way in ("up", "down")}


def traffic(log: RunLog) -> Json:
    """Bytes by link: sites <-> server (sealed), enclaves <-> accelerator, and its calls."""
    per_site = [site_bytes(log, site) for site in log.sites]
    return {
        "up": add(b["up"] for b in per_site),
        "down": add(b["down"] for b in per_site),
        "enclave_to_accelerator": counter(log, "bytes_in"),
        "accelerator_to_enclave": counter(log, "bytes_out"),
        "accelerator_calls": counter(log, "calls"),
    }


def counter(log: RunLog, key: str) -> float | None:
    """A running total of ``offload`` events, added up over processes and restarts.

    The accelerator repeats its totals since start; a total that falls means a new process.
    """
    ended: float = 0
    latest: dict[str, float] = {}
    for event in log.of("offload"):
        value, role = number(event.get(key)), text(event.get("role")) or "accelerator"
        if value is None or value < 0:
            continue
        if value < latest.get(role, 0):
            ended += latest[role]
        latest[role] = value
    return ended + sum(latest.values()) if latest else None


def total_seconds(log: RunLog) -> float | None:
    """Wall time over all attempts; one without an end counts up to its last event."""
    return add(_attempt_seconds(attempt) for attempt in log.attempts or (log.events,))


def _attempt_seconds(events: tuple[Json, ...]) -> float | None:
    for event in reversed(events):
        if event.get("event") == "end" and number(event.get("seconds")) is not None:
            return number(event.get("seconds"))
    times = [t for t in (number(e.get("time")) for e in events) if t is not None]
    return times[-1] - times[0] if len(times) > 1 else None


def site_seconds(log: RunLog) -> dict[str, Json]:
    """Each site's seconds by part, summed over the rounds it took part in; ``None``: no record."""
    sums: dict[str, dict[str, float]] = {}
    for event in (*log.rounds.values(), log.final):
        for site, parts in _split_round(log, event).items():
            mine = sums.setdefault(site, dict.fromkeys(PARTS, 0.0))
            for part, value in parts.items():
                mine[part] += value
    return {s: dict(sums.get(s, dict.fromkeys(PARTS, None))) for s in log.sites}


def _split_round(log: RunLog, event: Json) -> dict[str, dict[str, float]]:
    """One round's wall time by site and part, for the sites that delivered and reported times.

    Of a site that failed the server knows no times (it writes zeros), so none are assumed.
    """
    parts: dict[str, dict[str, float]] = {}
    for site in log.sites:
        entry = log.entry(event, site)
        stated = table(entry.get("seconds")) if entry.get("outcome") == "ok" else {}
        known = {part: number(stated.get(part)) for part in BUSY}
        if any(value is not None for value in known.values()):
            parts[site] = {part: value or 0.0 for part, value in known.items()}
    if not parts:
        return {}
    busy = {site: sum(values.values()) for site, values in parts.items()}
    slowest = max(busy.values())
    wall, server = number(event.get("seconds")), number(event.get("server_seconds")) or 0.0
    for site, values in parts.items():
        values["server"] = server
        values["network"] = max(0.0, wall - server - slowest) if wall is not None else 0.0
        values["waiting"] = slowest - busy[site]
    return parts


def seconds(log: RunLog) -> tuple[Json, Json]:
    """Seconds of the run by part (see the module's text), and each part's share of their sum."""
    sums = dict.fromkeys(PARTS, 0.0)
    recorded = False
    for event in (*log.rounds.values(), log.final):
        split = _split_round(log, event)
        recorded |= bool(split)
        for part in PARTS:
            sums[part] += mean(values[part] for values in split.values()) or 0.0
    total = total_seconds(log)
    if not recorded:
        empty = dict.fromkeys((*PARTS, "other"), None)
        return {"total": total, **empty}, dict(empty)
    other = max(0.0, total - sum(sums.values())) if total is not None else None
    figures: dict[str, float | None] = {**sums, "other": other}
    whole_ = add(figures.values())
    shares = {part: ratio(value, whole_) for part, value in figures.items()}
    return {"total": total, **figures}, shares


def peak_memory(log: RunLog) -> Json:
    """Largest resident memory by role, in MiB."""
    peaks: Json = {}
    for event in log.of("memory"):
        role, mib = text(event.get("role")), number(event.get("peak_mib"))
        if role is not None and mib is not None:
            peaks[role] = max(mib, peaks.get(role, 0))
    order = ["server", *(f"client:{site}" for site in log.sites), "accelerator", "flower"]
    return dict(sorted(peaks.items(), key=lambda p: order.index(p[0]) if p[0] in order else 99))
