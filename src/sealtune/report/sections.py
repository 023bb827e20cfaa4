"""Rows and sentences of the page's sections, in plain words, from the summary.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sealtune.job.events import SiteRound
from sealtune.job.training_events import CutTexts
from sealtune.report import evidence, numbers
from sealtune.report.log import RunLog, entry
from sealtune.report.methods import View
from sealtune.report.values import Json, add, ratio, text

BASELINE_NAMES = {
    "local": "each site alone",
    "pooled": "all data in one place",
    "plain-federated": "federated, unprotected",
}
PLACEMENTS = {
    "enclave": "in the enclave",
    "masked": "on the accelerator, masked",
    "plain": "on the accelerator, in the plain",
    "owner": "at the data owner",
}
TEST_ROOT = (
    "The manifest accepts evidence under a test root in the vendor’s place. Whoever has its "
    "key can forge it, so no hardware stands behind this run."
)
ROUNDS_SHOWN = 60  # of each end of a long run


@dataclass(frozen=True)
class Banner:
    """A banner: ``level`` is ``bad`` or ``mind``."""

    level: str
    title: str
    text: str


def warnings(log: RunLog, view: View, s: Json) -> list[Banner]:
    """What a reader must know before any figure."""
    return [*_protection(log, view, s), *_course(log, view, s), *_figures(s)]


def _protection(log: RunLog, view: View, s: Json) -> Iterator[Banner]:
    on_test_root = any(v.is_test_root for v in evidence.of_evidence(log, view))
    if on_test_root:
        yield Banner("bad", "Evidence under a test root: not confidential.", TEST_ROOT)
    elif s["confidential"] is not True and evidence.SIMULATED not in s["evidence"]:
        why = "See the trust chain for what lacks."
        yield Banner("bad", "Not shown to be confidential.", why)
    if view.is_exposed(log):
        title = "No masks: the accelerator saw activations and gradients."
        yield Banner("bad", title, "protect = insecure-none is for comparison only.")


def _course(log: RunLog, view: View, s: Json) -> Iterator[Banner]:
    done, planned = s["rounds"]["done"], s["rounds"]["planned"]
    if s["outcome"] != "ok":
        how = {"failed": "The run failed", "interrupted": "The run was interrupted"}
        title = how.get(s["outcome"], "The run has no recorded end: it is going on, or was killed")
        error = s["error"] or {}
        said = " ".join(x for x in (error.get("message"), error.get("hint")) if x)
        after = f" after {done} of {planned} rounds" if planned is not None else ""
        yield Banner("bad", f"{title}{after}.", said or "Figures end where the log ends.")
    cut = sum({(e.site, e.part): e.count for e in log.of(CutTexts)}.values())
    if cut:
        texts = "1 text was cut." if cut == 1 else f"{numbers.count(cut)} texts were cut."
        yield Banner("mind", texts, "What goes beyond data.max_tokens was not read.")
    for title, words in view.missing_words(s):
        yield Banner("mind", title, words)


def _figures(s: Json) -> Iterator[Banner]:
    broken = s["losses_not_finite"]
    if broken:
        one = broken == 1
        words = "recorded loss is not a number" if one else "recorded losses are not numbers"
        remedy = "Training went out of range; lower the learning rate."
        yield Banner("bad", f"{broken} {words}.", remedy)
    for check, words in (
        ("trained_moved", "The trainable weights did not change in some round."),
        ("frozen_unchanged", "Frozen weights changed in some round."),
    ):
        if s["checks"][check] is False:
            yield Banner("bad", words, "Do not use this adapter.")
    tested, first = set(s["sites_tested_after"]), set(s["sites_tested_before"])
    if tested and first and tested != first:
        title = "Before and after were not measured on the same sites."
        sites = f"Before: {', '.join(sorted(first))}. After: {', '.join(sorted(tested))}."
        yield Banner("mind", title, sites)
    if s["unreadable_lines"]:
        words = f"{s['unreadable_lines']} lines of metrics.jsonl could not be read."
        yield Banner("mind", words, "Figures rest on the others.")


def headline(s: Json) -> Json:
    """The big figures, and one sentence that says what they mean."""
    before, after, majority = s["accuracy_before"], s["accuracy_after"], s["majority_class"]
    rows = s["test_rows_after"]
    noun = "test tokens" if s["metric"] == "token accuracy" else "test rows"
    sentences: list[str] = []
    if after is None:
        sentences.append("The final adapter was not evaluated.")
    else:
        right = round(after * rows)
        low, high = s["accuracy_after_95"]
        sentences.append(
            f"{numbers.count(right)} of {numbers.count(rows)} {noun} are answered right. Other "
            f"{noun} of the same kind could have given {numbers.percent(low)} to "
            f"{numbers.percent(high)} (95 % interval)."
        )
        if majority is not None:
            sentences.append(_against_majority(after, low, majority))
    better = (
        after is not None and after > (before or 0) and s["accuracy_after_95"][0] > (majority or 0)
    )
    return {
        "before": before, "after": after, "noun": noun, "sentences": sentences, "better": better,
    }  # fmt: skip


def _against_majority(after: float, low: float, majority: float) -> str:
    shown = numbers.percent(majority)
    if after <= majority:
        return f"That is no better than always answering the largest class ({shown})."
    if low <= majority:
        return f"That cannot be told from always answering the largest class ({shown})."
    return f"Always answering the largest class would be right in {shown}."


@dataclass(frozen=True)
class Part:
    """A part of a bar: ``class_`` gives its colour, ``width`` is in percent of the full bar."""

    name: str
    class_: str
    width: float
    shown: str


@dataclass(frozen=True)
class Bar:
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
        Bar(name, [Part(name, class_, _percent(value or 0.0, top), shown)], shown, class_, note)
        for name, value, shown, class_, note in rows
    ]


def _percent(value: float, top: float) -> float:
    return round(100 * min(1.0, max(0.0, value / top)), 2)


def comparison(s: Json) -> list[Bar]:
    """Accuracies on one scale: the trivial answer, before, baselines, this run."""
    rows = [("before training", s["accuracy_before"], "soft", "")]
    if s["majority_class"] is not None:
        rows.insert(0, ("largest class", s["majority_class"], "soft", ""))
    for kind, b in s["baselines"].items():
        name = BASELINE_NAMES.get(kind, kind)
        rows.append((name, b["accuracy_after"], "base", f"baseline {kind}"))
    rows.append(("this run", s["accuracy_after"], "main", ""))
    shown = [(name, x, numbers.percent(x), class_, note) for name, x, class_, note in rows]
    return bars(shown, full=1.0)


def times(s: Json, view: View) -> list[Bar]:
    """Where the wall time went: the mean of all sites, then every site; empty: no record."""
    mean, sites = s["seconds"], s["per_site"]
    if mean["enclave"] is None:
        return []
    rows = [("mean of sites" if len(sites) > 1 else "run", mean)]
    if len(sites) > 1:
        rows += [(site, {**v["seconds"], "other": mean["other"]}) for site, v in sites.items()]
    sums = {name: add(seconds[part] for part in view.time_parts) for name, seconds in rows}
    top = max(total or 0.0 for total in sums.values()) or 1
    return [
        Bar(
            name,
            [
                Part(
                    words,
                    f"part-{part}",
                    _percent(seconds[part] or 0.0, top),
                    numbers.duration(seconds[part]),
                )
                for part, words in view.time_parts.items()
            ],
            numbers.duration(sums[name]),
        )
        for name, seconds in rows
    ]


def memory(s: Json, view: View) -> list[Bar]:
    """Peak memory of every process."""
    peaks = s["peak_memory_mib"]
    names = {"server": "server enclave", "client": view.client, "flower": "Flower, all processes"}

    def title(role: str) -> str:
        kind, _, site = role.partition(":")
        return f"{names.get(kind, kind)} {site}".strip()

    return bars([(title(role), mib, numbers.mib(mib), "plain", "") for role, mib in peaks.items()])


def sent(rows: Sequence[Json]) -> list[Bar]:
    """What each site sent, each above the bare activations of the same tokens."""
    drawn: list[tuple[str, float | None, str, str, str]] = []
    for row in rows:
        if row["bytes_up"] is None or row["total"]:
            continue
        drawn.append((row["name"], row["bytes_up"], numbers.size(row["bytes_up"]), "plain", ""))
        if row["raw"] is not None:
            drawn.append(("", row["raw"], numbers.size(row["raw"]), "base", "bare activations"))
    return bars(drawn)


def site_rows(s: Json) -> list[Json]:
    """One row for each site, with the baseline of training alone, and one for all together."""
    local = s["baselines"].get("local", {})
    rows = [
        {
            "name": site,
            **{k: v[k] for k in ("examples", "test_rows", "accuracy_before", "accuracy_after")},
            "local": local.get("per_site", {}).get(site, {}).get("accuracy"),
            **{k: v[k] for k in ("rounds_ok", "bytes")},
            "total": False,
        }
        for site, v in s["per_site"].items()
    ]
    if len(rows) != 1:
        rows.append(_all_sites(s, rows))
    return rows


def _all_sites(s: Json, rows: list[Json]) -> Json:
    local = s["baselines"].get("local", {})
    return {
        "name": "all sites",
        "examples": add(r["examples"] for r in rows),
        "test_rows": s["test_rows_after"] or s["test_rows_before"],
        "accuracy_before": s["accuracy_before"],
        "accuracy_after": s["accuracy_after"],
        "local": local.get("accuracy_after"),
        "rounds_ok": None,
        "bytes": s["bytes"],
        "total": True,
    }


def round_rows(log: RunLog) -> Json:
    """Every client's outcome in every round; the middle of a very long run is left to the log."""
    stages = [("before" if event.round == 0 else str(event.round), event) for event in log.stages]
    if log.final:
        stages[-1] = ("final", log.final)
    skipped = max(0, len(stages) - 2 * ROUNDS_SHOWN)
    if skipped:
        stages = stages[:ROUNDS_SHOWN] + stages[-ROUNDS_SHOWN:]
    rows = [
        {
            "round": label,
            "seconds": event.seconds,
            "cells": [_cell(entry(event, site)) for site in log.sites],
            "loss": event.train_loss,
            "server": event.server_seconds,
            "gap": bool(skipped) and i == ROUNDS_SHOWN,
        }
        for i, (label, event) in enumerate(stages)
    ]
    return {"rows": rows, "skipped": skipped}


def _cell(own: SiteRound) -> Json:
    silent = not own.bytes_up and not own.bytes_down  # between upload and end of a split job
    return {
        "outcome": own.outcome or "no record",
        "class": own.outcome if own.outcome in ("ok", "late", "failed") else "none",
        "reason": own.reason,
        "loss": own.train_loss,
        "accuracy": ratio(own.correct, own.total),
        "up": None if silent else own.bytes_up,
        "down": None if silent else own.bytes_down,
    }


def plan_rows(log: RunLog) -> list[Json]:
    """Modules counted by placement and reason, with one of them as an example."""
    modules = log.plan.get("modules")
    rows: dict[tuple[str, str], Json] = {}
    for module in modules if isinstance(modules, list) else []:
        if not isinstance(module, dict):
            continue
        placement = text(module.get("placement")) or "?"
        reason = text(module.get("reason")) or ""
        row = rows.setdefault(
            (placement, reason),
            {
                "placement": PLACEMENTS.get(placement, placement),
                "reason": reason,
                "count": 0,
                "example": text(module.get("name")) or "",
            },
        )
        row["count"] += 1
    order = ["owner", *PLACEMENTS]
    keys = sorted(
        rows, key=lambda k: (order.index(k[0]) if k[0] in order else 9, -rows[k]["count"])
    )
    return [rows[key] for key in keys]
