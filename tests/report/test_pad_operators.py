"""A report says who ran the two accelerators, and what that means."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.report import build_summary, write
from tests.report.sample_run import resolved, write_run


def run(folder: Path, operators: str, evidence: str = "simulated") -> Path:
    """A run's folder whose manifest names pad accelerators."""
    signed = resolved(protection__pads="second-accelerator", protection__attestation=evidence)
    one = {"operator": "b", "accelerator": "a", "key": "00", "operators": operators}
    return write_run(folder, None, signed | {"pad_accelerators": {"north": one}})


@pytest.mark.parametrize("operators", ["independent", "simulated"])
def test_operators_are_stated(tmp_path: Path, operators: str) -> None:
    folder = run(tmp_path / "run", operators)
    assert build_summary(folder)["pad_operators"] == operators
    page = write(folder).read_text()
    assert ("Accelerator and pad accelerator of one operator" in page) == (operators == "simulated")
    assert "must not collude with the pad accelerator" in page


def test_one_operator_of_both_is_not_confidential(tmp_path: Path) -> None:
    """Whatever the evidence of the enclaves is."""
    found = [build_summary(run(tmp_path / one, one, "sgx")) for one in ("independent", "simulated")]
    assert (
        found[0]["confidential"]
        == build_summary(
            write_run(tmp_path / "none", None, resolved(protection__attestation="sgx"))
        )["confidential"]
    )
    assert found[1]["confidential"] is False


def test_an_unknown_word_counts_as_weaker(tmp_path: Path) -> None:
    assert build_summary(run(tmp_path / "run", "cousins"))["pad_operators"] == "simulated"


def test_without_pad_accelerators_nothing_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert build_summary(folder)["pad_operators"] is None
    assert "pad accelerator" not in write(folder).read_text()
