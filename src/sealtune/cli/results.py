"""What came out of a run, for the terminal.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sealtune.cli.signing import KEYS
from sealtune.job.compute_rules import GPU
from sealtune.job.method import Method
from sealtune.report.evidence import SIMULATED
from sealtune.report.methods import view_of
from sealtune.report.views import NAMES

_OWN = "sites/*/adapter"
_PERSONAL = "personal"
_SITES_SHOWN = 4  # columns of the table of both views


def show_results(summary: Mapping[str, Any], run_dir: Path, page: Path, console: Console) -> None:
    """Print what came out of a run: figures, files, and whether it was confidential.

    Args:
        summary: as in ``summary.json``.
        run_dir: the run's folder.
        page: the report.
        console: where.
    """
    method = view_of(summary["method"]).method

    def say(name: str, words: str) -> None:
        console.print(Text.assemble((f"{name:8}", "dim"), words), soft_wrap=True)

    console.print()
    console.print(_table(summary))
    console.print()
    show_views(summary, console)
    say("time", _time(summary, method))
    if summary["privacy"] is not None:
        say("privacy", _privacy(summary["privacy"]))
    own = sorted(run_dir.glob("sites/*/adapter-personal")) or sorted(run_dir.glob(_OWN))
    adapters = [run_dir / "adapter", *(own if _PERSONAL in summary["views"] else [])]
    for name, path in (*(("adapter", path) for path in adapters), ("report", page)):
        if path.exists():
            say(name, str(path))
    if method.server_trains and summary["split"]["release"] == "never":
        signed = "" if (run_dir / KEYS).is_dir() else " --key ORG.key"
        asks = f"sealtune predict --run {run_dir}{signed} --text ..."
        say("adapter", f"kept in the server enclave: {asks}")
    console.print()
    if not method.attested:
        words = (
            "NOT CONFIDENTIAL: secure aggregation without any TEE. The server is trusted not to "
            "side with a third of the sites or more, and single updates were not checked."
        )
        console.print(Text(words, style="bold red"), soft_wrap=True)
    elif summary["confidential"] is not True:
        kinds = " and ".join(summary["evidence"]) or "no"
        who = "server enclave" if method.sites_sign else "enclaves"
        words = f"NOT CONFIDENTIAL: the {who} showed {kinds} evidence, which protects nothing."
        if summary["compute"] == GPU:
            words += " What stood in for an attested GPU proved nothing, either."
        console.print(Text(words, style="bold red"), soft_wrap=True)

    if summary["pad_operators"] == SIMULATED:
        words = (
            "NOT CONFIDENTIAL: one operator ran the accelerator and the pad accelerator, which "
            "together see everything (simulated)."
        )
        console.print(Text(words, style="bold red"), soft_wrap=True)


def show_views(summary: Mapping[str, Any], console: Console) -> None:
    """Print how every model does on all rows and on own rows; a joint adapter has one view."""
    views = summary["views"]
    if views.keys() <= {"joint"}:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(summary["metric"], no_wrap=True)
    named = list(summary["per_site"]) if len(summary["per_site"]) <= _SITES_SHOWN else []
    for heading in ("all rows", "own rows", *named):
        table.add_column(heading, justify="right")
    for kind, view in views.items():
        sites = (_percent(view["per_site"][site]["own_rows"]) for site in named)
        shares = _percent(view["all_rows"]), _percent(view["own_rows"])
        table.add_row(Text(NAMES.get(kind, kind)), *shares, *sites)
    console.print(table)
    if _PERSONAL in views and views[_PERSONAL]["all_rows"] is None:
        words = "`sealtune run --baseline local` tests the sites' own adapters on all rows, too"
        console.print(Text(words, style="dim"), soft_wrap=True)
    console.print()


def _table(summary: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for heading in (f"{summary['metric']} before", "after", "test rows", "training examples"):
        table.add_column(heading, justify="right")
    for name, site in summary["per_site"].items():
        shares = _percent(site["accuracy_before"]), _percent(site["accuracy_after"])
        table.add_row(Text(name), *shares, _count(site["test_rows"]), _count(site["examples"]))
    before, after = _percent(summary["accuracy_before"]), _percent(summary["accuracy_after"])
    rows = _count(summary["test_rows_after"])
    table.add_row(Text("all sites", style="bold"), before, Text(after, style="bold"), rows, "")
    if summary["majority_class"] is not None:
        guess = _percent(summary["majority_class"])
        table.add_row(Text("always the largest class", style="dim"), "", guess, "", "")
    return table


def _time(summary: Mapping[str, Any], method: Method) -> str:
    """How long it took, and what took it."""
    one_method_only = ("passes", "accelerator", "pads", "server")
    parts = []
    for name in ("enclave", *one_method_only, "network", "waiting", "other"):
        share = summary["shares"][name]
        if share or (share is not None and name not in one_method_only):
            at_sites = method.sites_sign and name == "enclave"
            parts.append(f"{'sites' if at_sites else name} {_percent(share, 0)}")
    total = summary["seconds"]["total"]
    took = "" if total is None else f"{total:.0f} s"
    return f"{took}  {', '.join(parts)}"


def _privacy(privacy: Mapping[str, Any]) -> str:
    """What was spent of the budget."""
    spent = "–" if privacy["epsilon"] is None else f"{privacy['epsilon']:.3g}"
    ended = ", which ended training" if privacy["ended_early"] else ""
    budget, delta = f"{privacy['budget']:g}", f"{privacy['delta']:g}"
    return f"epsilon {spent} of {budget}{ended}; delta {delta}, of each {privacy['unit']}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{share:.{digits}%}"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"
