"""What people are told of differential privacy before they sign, and before they start."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from sealtune.accounting.terms import make_terms
from sealtune.cli.main import app
from sealtune.cli.manifest_facts import facts_of
from sealtune.cli.manifest_view import show_manifest
from sealtune.job.settings import Settings
from sealtune.party.trust import read_policies
from tests.job import sample
from tests.sample_job import write_job


def shown(**privacy: object) -> str:
    """What ``job show`` prints of the sample with this section."""
    values = sample.JOB.settings.model_dump(mode="json")
    settings = Settings.model_validate({**values, "privacy": privacy})
    rows = dict.fromkeys(settings.sites.names, sample.DATA.train_rows)
    manifest = sample.make_manifest(settings=settings, dp=make_terms(settings, rows))
    out = io.StringIO()
    shown = facts_of(manifest, read_policies(manifest), "ab", ())
    show_manifest(shown, Console(file=out, width=300))
    return out.getvalue()


def test_show_tells_noise_and_costs() -> None:
    text = shown(unit="site", epsilon=8.0)
    for words in (
        "of each site: whether it took part at all",
        "after 3 rounds, of a budget of 8; delta 1e-05",
        "times what one site adds at most, whose norm is clipped to 1; RDP of dp-accounting",
        "north, south",
        "epsilon by round: 4.",
        "metrics    none: they have no noise",
        "updates    fedavg\n",
    ):
        assert words in text
    assert "training ends" not in text


def test_show_says_where_the_budget_ends() -> None:
    text = shown(unit="example", epsilon=6.0, noise_multiplier=0.8)
    assert "of each training row" in text
    assert "training ends after round" in text
    assert "the next one would exceed the budget" in text


def test_validate_works_the_noise_out(llama: Path, tmp_path: Path) -> None:
    path = write_job(tmp_path, llama, privacy={"unit": "site", "epsilon": 6.0})
    result = CliRunner().invoke(app, ["validate", str(path)])
    assert result.exit_code == 0
    assert "privacy of each site: epsilon 5.9" in result.output
