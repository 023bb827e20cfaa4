"""A run under secure aggregation on the page and in the summary: named, and shown as the weaker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from sealtune.cli.results import show_results
from sealtune.report import write
from tests.report.sample_run import JOB_ID, SITES, Json, events, resolved, write_run
from tests.report.test_page import Tags


def happened() -> list[Json]:
    """The sample's events, without evidence and without an accelerator."""
    kept = [e for e in events() if e["event"] not in ("attested", "offload")]
    for site in SITES:
        said = {"event": "attested", "confidential": False, "job_id": JOB_ID, "time": 1.8e9}
        kept.append({**said, "role": "server", "by": "server", "who": site, "kind": "participant"})
        own = {"role": f"client:{site}", "by": site, "who": "server", "kind": "unattested"}
        kept.append({**said, **own})
    return kept


@pytest.fixture
def run(tmp_path: Path) -> Path:
    signed = resolved(job__trust="secure-aggregation") | {"method": "federated-lora-secagg"}
    return write_run(tmp_path / "run", happened(), signed)


def test_the_summary(run: Path) -> None:
    write(run)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["method"] == "federated-lora-secagg"
    assert summary["trust"] == summary["protect"] == "secure-aggregation"
    assert summary["confidential"] is False
    assert summary["evidence"] == []


def test_the_page_says_first_what_is_weaker(run: Path) -> None:
    page = write(run).read_text(encoding="utf-8")
    tags = Tags(page)
    assert not tags.stack
    text = re.sub(r"\s+", " ", " ".join(tags.text))
    banner = "No TEE: the server is trusted not to collude, and single updates are unchecked."
    assert text.index(banner) < text.index("accuracy on test rows")
    assert "secure aggregation, no TEE" in text
    assert "nothing, and asks for none, protects nothing" in text
    for words in ("client enclave", "simulated enclave", "hardware", "accelerator ("):
        assert words not in text.lower()


def test_a_run_with_enclaves_says_so(tmp_path: Path) -> None:
    write(write_run(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["trust"] == "enclaves"


def test_the_terminal_says_so_last(run: Path) -> None:
    page, console = write(run), Console(record=True, width=200)
    summary = json.loads((run / "summary.json").read_text())
    show_results(summary, run, page, console)
    last = console.export_text().strip().splitlines()[-1]
    assert last.startswith("NOT CONFIDENTIAL: secure aggregation without any TEE.")
    assert "single updates were not checked" in last
