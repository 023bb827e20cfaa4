"""``sealtune tcb``: what a person and a script get to see."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.programs.reach import MAINS
from sealtune.start import read_program


def test_one_program_as_json_and_as_a_table() -> None:
    result = CliRunner().invoke(app, ["tcb", "aggregator", "--json"])
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.output)["programs"].values()
    assert facts["modules"] == len(read_program("aggregator").at_start)
    assert facts["lines"] > 1000
    assert "cryptography" in facts["distributions"]
    assert not {"sealtune", "torch", "pytest"} & set(facts["distributions"])
    assert facts["on_demand"]["lines"] > 0
    shown = CliRunner().invoke(app, ["tcb", "aggregator"]).output
    assert f"{facts['lines']:,}" in shown
    assert "cryptography" in shown


def test_an_unknown_program() -> None:
    result = CliRunner().invoke(app, ["tcb", "nobody"])
    assert result.exit_code == 2
    assert all(name in " ".join(result.output.split()) for name in MAINS)


def test_lists_that_are_right_are_left_as_they_are() -> None:
    assert CliRunner().invoke(app, ["tcb", "--pin"]).output == ""
