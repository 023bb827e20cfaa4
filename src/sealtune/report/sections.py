"""Rows and sentences of the page's sections, in plain words, from the summary.

Trust domain: server operator.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from sealtune.report import numbers, split_sections
from sealtune.report.bars import Bar, bars
from sealtune.report.log import RunLog
from sealtune.report.values import Json, add, number, text, whole

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
ROUNDS_SHOWN = 60  # of each end of a long run


@dataclass(frozen=True)
class Banner:
    """A banner: ``level`` is ``bad`` or ``mind``."""

    level: str
    title: str
    text: str


def warnings(log: RunLog, s: Json) -> list[Banner]:
    """What a reader must know before any figure."""
    found: list[Banner] = []
    if "simulated" in s["evidence"]:
        found.append(
            Banner(
                "bad",
                "Simulated evidence: not confidential.",
                split_sections.SIMULATED
                if s["split"]
                else "The enclaves of this run were ordinary processes. Whoever controls a machine "
                "could read all that its enclave held. Masks, seals and the handshake were really "
                "carried out; the protection by hardware was not there.",
            )
        )
    elif s["confidential"] is not True:
        found.append(
            Banner("bad", "Not shown to be confidential.", "See the trust chain for what lacks.")
        )
    if s["protect"] == "insecure-none":
        found.append(
            Banner(
                "bad",
                "No masks: the accelerator saw activations and gradients.",
                "protect = insecure-none is for comparison only.",
            )
        )
    found += _course_warnings(log, s)
    return found


def _course_warnings(log: RunLog, s: Json) -> list[Banner]:
    found: list[Banner] = []
    done, planned = s["rounds"]["done"], s["rounds"]["planned"]
    if s["outcome"] != "ok":
        how = {"failed": "The run failed", "interrupted": "The run was interrupted"}
        title = how.get(s["outcome"], "The run has no recorded end: it is going on, or was killed")
        error = s["error"] or {}
        said = " ".join(x for x in (error.get("message"), error.get("hint")) if x)
        after = f" after {done} of {planned} rounds" if planned is not None else ""
        found.append(Banner("bad", f"{title}{after}.", said or "Figures end where the log ends."))
    cut = {(e.get("site"), e.get("part")): number(e.get("count")) for e in log.of("warning")}
    if cut:
        total = sum(n or 0 for n in cut.values())
        texts = "1 text was cut." if total == 1 else f"{numbers.count(total)} texts were cut."
        found.append(Banner("mind", texts, "What goes beyond data.max_tokens was not read."))
    lost = sum(o["outcome"] not in ("ok", None) for r in s["outcomes"] for o in r["sites"].values())
    if s["split"]:
        found += [Banner("mind", *words) for words in split_sections.banners(s)]
    elif lost:
        noun = "answer is" if lost == 1 else "answers are"
        found.append(
            Banner("mind", f"{lost} {noun} missing.", "See the round table for whose, and why.")
        )
    if s["losses_not_finite"]:
        n = s["losses_not_finite"]
        words = "recorded loss is not a number" if n == 1 else "recorded losses are not numbers"
        found.append(
            Banner("bad", f"{n} {words}.", "Training went out of range; lower the learning rate.")
        )
    for check, words in (
        ("trained_moved", "The trainable weights did not change in some round."),
        ("frozen_unchanged", "Frozen weights changed in some round."),
    ):
        if s["checks"][check] is False:
            found.append(Banner("bad", words, "Do not use this adapter."))
    tested, first = set(s["sites_tested_after"]), set(s["sites_tested_before"])
    if tested and first and tested != first:
        found.append(
            Banner(
                "mind",
                "Before and after were not measured on the same sites.",
                f"Before: {', '.join(sorted(first))}. After: {', '.join(sorted(tested))}.",
            )
        )
    if s["unreadable_lines"]:
        words = f"{s['unreadable_lines']} lines of metrics.jsonl could not be read."
        found.append(Banner("mind", words, "Figures rest on the others."))
    return found


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


def comparison(s: Json) -> Markup:
    """Accuracies on one scale: the trivial answer, before, baselines, this run."""
    rows = [Bar("before training", s["accuracy_before"], "", "soft")]
    if s["majority_class"] is not None:
        rows.insert(0, Bar("largest class", s["majority_class"], "", "soft"))
    for kind, b in s["baselines"].items():
        rows.append(
            Bar(BASELINE_NAMES.get(kind, kind), b["accuracy_after"], "", "base", f"baseline {kind}")
        )
    rows.append(Bar("this run", s["accuracy_after"], "", "main"))
    shown = [Bar(r.name, r.value, numbers.percent(r.value), r.class_, r.note) for r in rows]
    return bars(shown, full=1.0)


def tiles(s: Json) -> list[tuple[str, str, str]]:
    """Key figures: (name, figure, explanation)."""
    if s["split"]:
        return split_sections.tiles(s)
    t, b, rounds = s["seconds"], s["bytes"], s["rounds"]
    answers = [o["outcome"] for r in s["outcomes"] for o in r["sites"].values()]
    answered = f"{answers.count('ok')} of {len(answers)} answers in"
    online = add((t["enclave"], t["accelerator"]))
    planned = f" of {rounds['planned']}" if rounds["planned"] is not None else ""
    return [
        ("wall time", numbers.duration(t["total"]), "from start to end, all processes"),
        (
            "computing, per site",
            numbers.duration(online),
            f"and {numbers.duration(t['pads'])} for pads: "
            f"{numbers.duration(add((online, t['pads'])))} together",
        ),
        ("rounds", f"{rounds['done']}{planned}", answered),
        ("sites ↔ server", numbers.size(add((b["up"], b["down"]))), "sealed, all sites, both ways"),
        (
            "enclaves ↔ accelerator",
            numbers.size(add((b["enclave_to_accelerator"], b["accelerator_to_enclave"]))),
            f"{numbers.count(b['accelerator_calls'])} calls",
        ),
    ]  # fmt: skip


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
    events = [("before", e) if r == 0 else (str(r), e) for r, e in log.rounds.items()]
    if log.final:
        events.append(("final", log.final))
    skipped = max(0, len(events) - 2 * ROUNDS_SHOWN)
    if skipped:
        events = events[:ROUNDS_SHOWN] + events[-ROUNDS_SHOWN:]
    rows = [
        {
            "round": label,
            "seconds": number(event.get("seconds")),
            "cells": [_cell(log.entry(event, site)) for site in log.sites],
            "loss": number(event.get("train_loss")),
            "server": number(event.get("server_seconds")),
            "gap": bool(skipped) and i == ROUNDS_SHOWN,
        }
        for i, (label, event) in enumerate(events)
    ]
    return {"rows": rows, "skipped": skipped}


def _cell(entry: Json) -> Json:
    correct, total = whole(entry.get("correct")), whole(entry.get("total"))
    outcome = text(entry.get("outcome"))
    up, down = whole(entry.get("bytes_up")), whole(entry.get("bytes_down"))
    silent = not up and not down  # between upload and end of a split job
    return {
        "outcome": outcome or "no record",
        "class": outcome if outcome in ("ok", "late", "failed") else "none",
        "reason": text(entry.get("reason")) or "",
        "loss": number(entry.get("train_loss")),
        "accuracy": correct / total if correct is not None and total else None,
        "up": None if silent else up,
        "down": None if silent else down,
    }


def plan_rows(log: RunLog) -> list[Json]:
    """Modules counted by placement and reason, with one of them as an example."""
    plan = log.resolved.get("plan")
    modules = plan.get("modules") if isinstance(plan, dict) else None
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
