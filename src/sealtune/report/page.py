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

from sealtune.report import chain, curves, evidence, numbers, parties, picture, sections
from sealtune.report.log import RunLog
from sealtune.report.values import Json, text, whole

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
        "wide": picture.wide(facts),
        "narrow": picture.narrow(facts),
        "step_chart": curves.by_step(log),
        "loss_chart": curves.round_loss(log, summary),
        "accuracy_chart": curves.round_accuracy(log, summary),
        "sites": sections.site_rows(summary),
        "time_chart": sections.time_chart(summary),
        "memory_chart": sections.memory_chart(summary),
        "rounds": sections.round_rows(log),
        "job_file": text(log.started_with("job_file")),
        "verdicts": evidence.verdicts(log),
        "chain": chain.draw(evidence.verdicts(log), log.sites, signed="manifest" in log.resolved),
        "missing": evidence.missing(log),
        "plan": sections.plan_rows(log),
        "settings": _settings(log),
    }


def facts_of(log: RunLog, summary: Json) -> parties.Facts:
    """What the picture needs to know about this run."""
    traffic = summary["bytes"]
    plan = log.resolved.get("plan")
    return parties.Facts(
        protect=summary["protect"] or parties.ADAPTER_DATA,
        sites=log.sites,
        simulated="simulated" in summary["evidence"],
        prefix_blocks=whole(plan.get("prefix_blocks")) if isinstance(plan, dict) else None,
        up=traffic["up"],
        down=traffic["down"],
        out=traffic["enclave_to_accelerator"],
        back=traffic["accelerator_to_enclave"],
    )


def _about(log: RunLog, summary: Json) -> str:
    """The run in one line."""
    method = text(log.setting("tuning", "method"))
    model = text(log.setting("model", "path"))
    tuned = f"{'LoRA' if method == 'lora' else method or 'Fine-tuning'}"
    count = len(log.sites)
    parts = [
        f"{tuned} of {PurePath(model).name}" if model else tuned,
        summary["task"],
        f"{count} site{'' if count == 1 else 's'}" if count else None,
        f"protect = {summary['protect']}" if summary["protect"] else None,
    ]
    return " · ".join(part for part in parts if part)


def _settings(log: RunLog) -> list[tuple[str, str]]:
    """The job's settings that shape the result; files by name only, not by where they lie."""
    rows: list[tuple[str, str]] = []
    for section, keys in (
        ("model", ("path", "revision", "task")),
        ("data", ("train", "test", "template", "max_tokens", "max_test_rows")),
        ("sites", ("partition", "alpha")),
        ("tuning", ("method", "rank", "alpha", "dropout", "targets", "layers")),
        ("protection", ("protect", "integrity_bits", "attestation")),
        (
            "train",
            ("steps_per_round", "batch_size", "learning_rate", "weight_decay", "eval_batch_size"),
        ),
        ("network", ("min_sites", "deadline")),
    ):
        for key in keys:
            value = log.setting(section, key)
            if value is not None:
                names = (section, key) in {("model", "path"), ("data", "train"), ("data", "test")}
                rows.append((f"{section}.{key}", _shown(value, names)))
    labels = log.resolved.get("labels")
    if isinstance(labels, list) and labels:
        rows.append((f"labels ({len(labels)})", "; ".join(str(label) for label in labels)))
    return rows


def _shown(value: object, is_path: bool) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_shown(v, is_path)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return PurePath(str(value)).name if is_path else str(value)
