"""``report.html``: one file that needs nothing else, from the log and its summary.

No script, no font, no picture from elsewhere; a content security policy inside the page forbids
them. Names from outside (sites, labels, error messages) pass through Jinja2's autoescape.

Trust domain: server operator.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path, PurePath

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sealtune.errors import StorageError
from sealtune.job.storage import write_atomic
from sealtune.job.training_events import CutTexts
from sealtune.report import (
    audit,
    curves,
    evidence,
    heads,
    numbers,
    parties,
    sections,
    split_figures,
    values,
)  # fmt: skip
from sealtune.report.log import METRICS, RunLog, read_run
from sealtune.report.methods import view_of
from sealtune.report.summary import summarise
from sealtune.report.values import Json, table, text, whole

SUMMARY = "summary.json"
REPORT = "report.html"
_HERE = Path(__file__).parent
STYLE = Markup((_HERE / "report.css").read_text(encoding="utf-8"))  # our own text
# what a single party's log cannot know, by its role
_ELSEWHERE = {
    "server": "Steps, time and memory of sites and accelerators, and whether the sites verified "
    "the server, are in their own logs; traffic on the network is in the coordinator’s.",
    "site": "Rounds, losses and outcomes of all are in the server’s log.",
    "coordinator": "It carried sealed bytes: their sizes and times are here, rounds, losses and "
    "evidence are in the logs of the server and of the sites.",
    "accelerator": "It multiplied masked numbers: what they were is known to the sites alone.",
    "pad-accelerator": "It multiplied masks: what they hid is known to the sites alone.",
}
_FILTERS = (
    numbers.percent, numbers.points, numbers.count, numbers.loss, numbers.short, numbers.times,
    numbers.size, numbers.mib, numbers.duration, numbers.moment, numbers.of, values.add,
    values.ratio,
)  # fmt: skip


def write(run_dir: Path) -> Path:
    """Rebuild summary and page from the run's log; return the page's path.

    Raises:
        StorageError: not a run folder, nothing has run in it, or a file cannot be read or written.
    """
    log = read_run(run_dir)
    if not (run_dir / METRICS).is_file():
        raise StorageError(
            f"nothing has run in {run_dir}: it holds no {METRICS}",
            hint="give the folder of a run, such as runs/my-job, or the `folder` that a party's "
            "local file names",
        )
    summary = summarise(log)
    figures = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(log, summary)
    write_atomic(run_dir / SUMMARY, figures.encode())
    write_atomic(run_dir / REPORT, page.encode("utf-8", errors="replace"))
    return run_dir / REPORT


@cache
def environment() -> Environment:
    """Our templates with their filters, compiled once."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({show.__name__: show for show in _FILTERS})
    return environment


def render(log: RunLog, summary: Json) -> str:
    """The page for a run that has been read and summarised."""
    return environment().get_template("report.html").render(style=STYLE, **context(log, summary))


def context(log: RunLog, summary: Json) -> Json:
    """What the template needs."""
    view, split = view_of(log.method), summary["split"]
    verdicts = evidence.verdicts(log)
    uploads = split_figures.uploads(split) if split else []
    attacks = audit.attacks(log)
    return {
        "s": summary,
        "view": view,
        "model": PurePath(text(log.setting("model", "path")) or "").name,
        "tuned": split_figures.tuned(log),
        "started": log.started(),
        "on_test_root": any(v.is_test_root for v in evidence.of_evidence(log, view)),
        "exposed": view.is_exposed(log),
        "texts_cut": sum({(e.site, e.part): e.count for e in log.of(CutTexts)}.values()),
        "lacks": [*_of_one_party(summary), *view.missing_words(summary)],
        "comparison": sections.comparison(summary),
        "both_views": sections.view_rows(summary),
        "picture": view.picture(facts_of(log, summary)),
        "charts": {
            "step": curves.by_step(log, view),
            "loss": curves.round_loss(log, view, summary),
            "accuracy": curves.round_accuracy(log, summary),
            "epsilon": curves.epsilon(summary),
        },
        "uploads": uploads,
        "sent": sections.sent(uploads),
        "element": split_figures.ELEMENT.get(str((split or {}).get("activations"))),
        "select": text(table(log.setting("tuning", "spf")).get("select")),
        "heads": heads.maps(split),
        "times": sections.times(summary, view),
        "memory": sections.memory(summary, view),
        "rounds": sections.round_rows(log),
        "job_file": log.start.job_file,
        "verdicts": verdicts,
        "chain": evidence.chain(verdicts, log.sites, view),
        "signed": bool(log.signed),
        "missing": evidence.missing(log),
        "attacks": attacks,
        "audit_verdicts": audit.verdicts(attacks),
        "audit": {
            "level": values.number(log.audit.get("level")),
            "same_code": log.audit.get("same_code"),
        },
        "plan": sections.plan_rows(log),
        "settings": list(sections.settings(log, view)),
        "code": log.start.code,
    }


def _of_one_party(summary: Json) -> list[tuple[str, str]]:
    party = summary["party"]
    if party is None:
        return []
    words = _ELSEWHERE.get(party) or _ELSEWHERE.get(party.partition("-")[0], "")
    return [(f"This is the log of one party: {party}.", words)]


def facts_of(log: RunLog, summary: Json) -> parties.Facts:
    """What the picture needs to know about this run."""
    split = summary["split"] or {}
    return parties.Facts(
        protect=summary["protect"] or parties.ADAPTER_DATA,
        sites=log.sites,
        simulated=evidence.SIMULATED in summary["evidence"],
        prefix_blocks=whole(log.plan.get("prefix_blocks")),
        cut=split.get("cut"),
        blocks=split.get("blocks"),
        release=split.get("release"),
        task=summary["task"],
        compute=summary["compute"],
        pads=summary["pad_operators"] is not None,
    )
