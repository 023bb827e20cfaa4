"""``report.html``: one file that needs nothing else, from the log and its summary.

No script, no font, no picture from elsewhere; a content security policy inside the page forbids
them. Names from outside (sites, labels, error messages) pass through Jinja2's autoescape.

Trust domain: server operator.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sealtune.report import (
    chain,
    curves,
    evidence,
    heads,
    numbers,
    parties,
    sections,
    settings,
    split_figures,
    uploads,
)
from sealtune.report.log import RunLog
from sealtune.report.methods import View, view_of
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
    style = Markup((_HERE / "report.css").read_text(encoding="utf-8"))  # our own text
    return environment.get_template("report.html").render(style=style, **context(log, summary))


def context(log: RunLog, summary: Json) -> dict[str, Any]:
    """What the template needs."""
    view, split = view_of(log.method), summary["split"]
    verdicts = evidence.verdicts(log)
    upload_rows = uploads.rows(split) if split else []
    return {
        "s": summary,
        "view": view,
        "name": summary["name"] or "unnamed run",
        "outcome": OUTCOMES.get(summary["outcome"], summary["outcome"]),
        "about": _about(log, view, summary),
        "started": log.started(),
        "warnings": sections.warnings(log, view, summary),
        "headline": sections.headline(summary),
        "comparison": sections.comparison(summary),
        "tiles": view.tiles(summary),
        "picture": view.picture(facts_of(log, summary)),
        "charts": {
            "step": curves.by_step(log, view),
            "loss": curves.round_loss(log, view, summary),
            "accuracy": curves.round_accuracy(log, summary),
        },
        "sites": sections.site_rows(summary),
        "uploads": upload_rows,
        "sent": sections.sent(upload_rows),
        "raw_words": uploads.RAW_NAMES.get(str((split or {}).get("activations"))),
        "select": text(table(log.setting("tuning", "spf")).get("select")),
        "heads": heads.maps(split),
        "times": sections.times(summary, view),
        "memory": sections.memory(summary, view),
        "rounds": sections.round_rows(log),
        "job_file": log.start.job_file,
        "verdicts": verdicts,
        "chain": chain.chain(verdicts, log.sites, view),
        "signed": bool(log.signed),
        "missing": evidence.missing(log),
        "plan": sections.plan_rows(log),
        "settings": settings.rows(log, view),
        "code": log.start.code,
    }


def facts_of(log: RunLog, summary: Json) -> parties.Facts:
    """What the picture needs to know about this run."""
    traffic, split = summary["bytes"], summary["split"] or {}
    return parties.Facts(
        protect=summary["protect"] or parties.ADAPTER_DATA,
        sites=log.sites,
        simulated=evidence.SIMULATED in summary["evidence"],
        prefix_blocks=whole(log.plan.get("prefix_blocks")),
        up=traffic["up"],
        down=traffic["down"],
        out=traffic["enclave_to_accelerator"],
        back=traffic["accelerator_to_enclave"],
        cut=split.get("cut"),
        blocks=split.get("blocks"),
        release=split.get("release"),
        task=summary["task"],
    )


def _about(log: RunLog, view: View, summary: Json) -> str:
    """The run in one line."""
    model = text(log.setting("model", "path"))
    tuned = split_figures.tuned(log) or "Fine-tuning"
    count = len(log.sites)
    masked = summary["protect"] and view.method.accelerated
    parts = [
        f"{tuned} of {PurePath(model).name}" if model else tuned,
        summary["task"],
        f"{count} site{'' if count == 1 else 's'}" if count else None,
        f"protect = {summary['protect']}" if masked else None,
        *view.about(summary),
    ]
    return " · ".join(part for part in parts if part)
