"""``report.html``: one file that needs nothing else, from the log and its summary.

No script, no font, no picture from elsewhere; a content security policy inside the page forbids
them. Names from outside (sites, labels, error messages) pass through Jinja2's autoescape or
``svg.tag``.

Trust domain: server operator.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sealtune.report import (
    chain,
    cost_bars,
    curves,
    evidence,
    heads,
    numbers,
    parties,
    picture,
    sections,
    settings,
    split,
    split_picture,
    uploads,
)
from sealtune.report.log import RunLog
from sealtune.report.values import Json, table, text, whole

_HERE = Path(__file__).parent
OUTCOMES = {
    "ok": "finished",
    "failed": "failed",
    "interrupted": "interrupted",
    None: "no end recorded",
}


def render(log: RunLog, summary: Json) -> str:
    """The page for a run that has been read and summarised."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=numbers.percent, points=numbers.points, count=numbers.count, loss=numbers.loss,
        times=numbers.times, size=numbers.size, mib=numbers.mib, duration=numbers.duration,
        moment=numbers.moment,
    )  # fmt: skip
    sheet = (_HERE / "report.css").read_text(encoding="utf-8")
    style = Markup(sheet + picture.STYLE)  # both are our own text
    return environment.get_template("report.html").render(style=style, **context(log, summary))


def context(log: RunLog, summary: Json) -> dict[str, Any]:
    """What the template needs."""
    facts = facts_of(log, summary)
    return {
        "s": summary,
        "name": summary["name"] or "unnamed run",
        "outcome": OUTCOMES.get(summary["outcome"], summary["outcome"]),
        "about": _about(log, summary),
        "started": log.started(),
        "warnings": sections.warnings(log, summary),
        "headline": sections.headline(summary),
        "comparison": sections.comparison(summary),
        "tiles": sections.tiles(summary),
        "facts": facts,
        "wide": split_picture.wide(facts) if log.is_split else picture.wide(facts),
        "narrow": split_picture.narrow(facts) if log.is_split else picture.narrow(facts),
        "step_chart": curves.by_step(log),
        "loss_chart": curves.round_loss(log, summary),
        "accuracy_chart": curves.round_accuracy(log, summary),
        "sites": sections.site_rows(summary),
        "uploads": uploads.rows(summary["split"]) if summary["split"] else [],
        "upload_chart": uploads.chart(summary["split"]) if summary["split"] else None,
        "raw_words": uploads.RAW_NAMES.get(str((summary["split"] or {}).get("activations"))),
        "select": text(table(log.setting("tuning", "spf")).get("select")),
        "heads": heads.draw(summary["split"]) if summary["split"] else None,
        "time_chart": cost_bars.time_chart(summary),
        "memory_chart": cost_bars.memory_chart(summary),
        "rounds": sections.round_rows(log),
        "job_file": text(log.started_with("job_file")),
        "verdicts": evidence.verdicts(log),
        "chain": chain.draw(
            evidence.verdicts(log),
            log.sites,
            signed="manifest" in log.resolved,
            split=log.is_split,
        ),
        "participant": evidence.PARTICIPANT,
        "missing": evidence.missing(log),
        "plan": sections.plan_rows(log),
        "settings": settings.rows(log),
    }


def facts_of(log: RunLog, summary: Json) -> parties.Facts:
    """What the picture needs to know about this run."""
    traffic, plan = summary["bytes"], table(log.resolved.get("plan"))
    job = summary["split"] or {}
    return parties.Facts(
        protect=summary["protect"] or parties.ADAPTER_DATA,
        sites=log.sites,
        simulated="simulated" in summary["evidence"],
        prefix_blocks=whole(plan.get("prefix_blocks")),
        up=traffic["up"],
        down=traffic["down"],
        out=traffic["enclave_to_accelerator"],
        back=traffic["accelerator_to_enclave"],
        cut=job.get("cut"),
        blocks=job.get("blocks"),
        release=job.get("release"),
        task=summary["task"],
    )


def _about(log: RunLog, summary: Json) -> str:
    """The run in one line."""
    model = text(log.setting("model", "path"))
    tuned = split.tuned(log) or "Fine-tuning"
    job = summary["split"]
    count = len(log.sites)
    parts = [
        f"{tuned} of {PurePath(model).name}" if model else tuned,
        f"split after block {job['cut']} of {job['blocks']}" if job and job["cut"] else None,
        summary["task"],
        f"{count} site{'' if count == 1 else 's'}" if count else None,
        f"protect = {summary['protect']}" if summary["protect"] and not job else None,
        f"activations as {job['activations']}" if job and job["activations"] else None,
    ]
    return " · ".join(part for part in parts if part)
