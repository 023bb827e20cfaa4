"""Rows of the page's tables and bars, from the log and its summary; the template has the words.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sealtune.job.federated_sections import AggregationSpec
from sealtune.report import numbers
from sealtune.report.log import RunLog, entry
from sealtune.report.methods import View
from sealtune.report.values import Json, add, table, text
from sealtune.report.views import NAMES

PLACEMENTS = {
    "owner": "at the data owner",
    "enclave": "in the enclave",
    "masked": "on the accelerator, masked",
    "plain": "on the accelerator, in the plain",
}
SITES_SHOWN = 8  # columns of the table of both views
ROUNDS_SHOWN = 60  # of each end of a long run
# settings that shape the result, by section
SETTINGS = {
    "job": ("method", "trust"),
    "model": ("path", "task"),
    "data": ("template", "max_tokens", "max_train_rows", "max_test_rows"),
    "sites": ("partition", "alpha"),
    "split": ("cut", "activations"),
    "tuning": ("method", "rank", "alpha", "dropout", "targets", "layers", "lora", "spf", "ptuning"),
    "protection": ("compute", "protect", "integrity_bits", "pad_budget", "attestation"),
    "train": (
        "steps_per_round",
        "batch_size",
        "learning_rate",
        "head_learning_rate",
        "schedule",
        "warmup",
        "weight_decay",
        "eval_batch_size",
        "precision",
        "checkpointing",
    ),
    "aggregation": (
        "rule",
        "norm_bound",
        "trim",
        "attackers",
        "outliers",
        "server_optimizer",
        "server_learning_rate",
        "server_momentum",
        "server_second_momentum",
        "server_adaptivity",
        "proximal",
        "participation",
        "personal",
        "personal_steps",
    ),
    "privacy": (
        "unit",
        "epsilon",
        "delta",
        "clip",
        "noise_multiplier",
        "insecure_difference_releases",
        "site_metrics",
    ),
    "network": ("min_sites", "deadline"),
}
# which one rule or optimizer reads: shown where they are set
_OF_SOME = ("trim", "attackers", "server_momentum", "server_second_momentum", "server_adaptivity")


class Part(NamedTuple):
    """A part of a bar."""

    name: str
    class_: str  # gives its colour
    width: float  # in percent of the full bar
    shown: str


class Bar(NamedTuple):
    """A bar of one or more parts; its name and its length as text stand beside it."""

    name: str
    parts: Sequence[Part]
    shown: str
    class_: str = ""
    note: str = ""


def bars(rows: Sequence[tuple[str, float | None, str, str, str]], full: float = 0.0) -> list[Bar]:
    """Bars ``(name, value, value as text, class, note)`` on one scale that starts at 0.

    Args:
        full: value of a full-width bar; by default the largest.
    """
    top = full or max((value for _, value, *_ in rows if value is not None), default=0) or 1
    return [
        Bar(name, [Part(name, class_, _percent(value, top), shown)], shown, class_, note)
        for name, value, shown, class_, note in rows
    ]


def _percent(value: float | None, top: float) -> float:
    return round(100 * min(1.0, max(0.0, (value or 0.0) / top)), 2)


def comparison(s: Json) -> list[Bar]:
    """Accuracies on one scale: the trivial answer, before, baselines, this run."""
    rows = [("before training", s["accuracy_before"], "soft", "")]
    if s["majority_class"] is not None:
        rows.insert(0, ("largest class", s["majority_class"], "soft", ""))
    for kind, b in s["baselines"].items():
        name = NAMES.get(kind, kind)
        rows.append((name, b["accuracy_after"], "base", f"baseline {kind}"))
    rows.append(("this run", s["accuracy_after"], "main", ""))
    shown = [(name, x, numbers.percent(x), class_, note) for name, x, class_, note in rows]
    return bars(shown, full=1.0)


Marked = tuple[float | None, bool]  # a figure, and whether it is the best of its column


class Row(NamedTuple):
    """A model in the table of both views."""

    name: str
    all_rows: Marked
    own_rows: Marked
    sites: Sequence[Marked]


def view_rows(s: Json) -> list[Row]:
    """Both views of every model, with each site's own rows where there are not too many sites."""
    found = s["views"]
    sites = list(s["per_site"]) if len(s["per_site"]) <= SITES_SHOWN else []
    every, own, *by_site = (
        _marked(column)
        for column in (
            [view["all_rows"] for view in found.values()],
            [view["own_rows"] for view in found.values()],
            *([v["per_site"][site]["own_rows"] for v in found.values()] for site in sites),
        )
    )
    return [
        Row(NAMES.get(kind, kind), every[i], own[i], [column[i] for column in by_site])
        for i, kind in enumerate(found)
    ]


def _marked(column: Sequence[float | None]) -> list[Marked]:
    best = max((value for value in column if value is not None), default=None)
    return [(value, value is not None and value == best) for value in column]


def times(s: Json, view: View) -> list[Bar]:
    """Where the wall time went: the mean of all sites, then every site; empty: no record."""
    mean, sites = s["seconds"], s["per_site"]
    if mean["enclave"] is None:
        return []
    rows = {"mean of sites" if len(sites) > 1 else "run": mean}
    if len(sites) > 1:
        rows |= {site: {**v["seconds"], "other": mean["other"]} for site, v in sites.items()}
    sums = {name: add(seconds[part] for part in view.time_parts) for name, seconds in rows.items()}
    top = max(total or 0.0 for total in sums.values()) or 1

    def part(words: str, key: str, value: float | None) -> Part:
        return Part(words, f"part-{key}", _percent(value, top), numbers.duration(value))

    return [
        Bar(
            name,
            [part(words, key, seconds[key]) for key, words in view.time_parts.items()],
            numbers.duration(sums[name]),
        )
        for name, seconds in rows.items()
    ]


def memory(s: Json, view: View) -> list[Bar]:
    """Peak memory of every process."""
    names = {"server": "server enclave", "client": view.client, "flower": "Flower, all processes"}
    rows: list[tuple[str, float | None, str, str, str]] = []
    for role, mib in s["peak_memory_mib"].items():
        kind, _, site = role.partition(":")
        rows.append((f"{names.get(kind, kind)} {site}".strip(), mib, numbers.mib(mib), "plain", ""))
    return bars(rows)


def sent(uploads: Sequence[Json]) -> list[Bar]:
    """What each site sent, each above the bare activations of the same tokens."""
    drawn: list[tuple[str, float | None, str, str, str]] = []
    for row in uploads:
        up, raw = row["bytes_up"], row["raw_bytes"]
        if up is not None:
            drawn.append((row["name"], up, numbers.size(up), "plain", ""))
            if raw is not None:
                drawn.append(("", raw, numbers.size(raw), "base", "bare activations"))
    return bars(drawn)


def round_rows(log: RunLog) -> Json:
    """Every client's part in every round; the middle of a very long run is left to the log."""
    rows = [
        {
            "round": "final" if event is log.final else event.round or "before",
            "event": event,
            "entries": [entry(event, site) for site in log.sites],
        }
        for event in log.stages
    ]
    skipped = max(0, len(rows) - 2 * ROUNDS_SHOWN)
    if skipped:
        rows = rows[:ROUNDS_SHOWN] + rows[-ROUNDS_SHOWN:]
    return {"rows": rows, "skipped": skipped, "gap": ROUNDS_SHOWN if skipped else None}


def plan_rows(log: RunLog) -> list[Json]:
    """Modules counted by placement and reason, with one of them as an example."""
    modules = log.plan.get("modules")
    groups: dict[tuple[str, str], list[str]] = {}
    for module in modules if isinstance(modules, list) else []:
        if isinstance(module, dict):
            key = (text(module.get("placement")) or "?", text(module.get("reason")) or "")
            groups.setdefault(key, []).append(text(module.get("name")) or "")
    order = list(PLACEMENTS)
    rows = [
        {
            "rank": (order.index(place) if place in order else 9, -len(names)),
            "placement": PLACEMENTS.get(place, place),
            "reason": reason,
            "count": len(names),
            "example": names[0],
        }
        for (place, reason), names in groups.items()
    ]
    return sorted(rows, key=lambda row: row["rank"])


def settings(log: RunLog, view: View) -> Iterator[tuple[str, str]]:
    """Dotted key and value of every setting that has one."""
    for section, keys in SETTINGS.items():
        for key in keys:
            value = log.setting(section, key)
            if key in _OF_SOME and value == AggregationSpec.model_fields[key].default:
                continue
            if not {section, f"{section}.{key}"} & set(view.method.unused):
                yield from _flat(f"{section}.{key}", value)
    labels = log.signed.get("labels")
    if isinstance(labels, list) and labels:
        yield f"labels ({len(labels)})", "; ".join(map(str, labels))


def _flat(key: str, value: object) -> Iterator[tuple[str, str]]:
    """A setting, or those of its table ([tuning.lora], [tuning.ptuning])."""
    for inner, of_it in table(value).items():
        yield from _flat(f"{key}.{inner}", of_it)
    if isinstance(value, list | tuple) and value:
        yield key, ", ".join(map(str, value))
    elif value is not None and not isinstance(value, dict | list | tuple):
        yield key, str(value)
