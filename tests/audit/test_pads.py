"""Masks used twice, and two accelerators together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.audit import pads, watched
from sealtune.audit.finding import Finding, Verdict
from sealtune.audit.pads import COLLUSION, PAD_REUSE
from sealtune.audit.subject import Subject
from tests.audit.run_folder import SPLIT, make_run

SECOND = {"protection": {"pads": "second-accelerator"}}


def quiet(share: float, what: str) -> None:
    assert 0 <= share <= 1


def by_variant(found: list[Finding]) -> dict[str, Finding]:
    return {one.variant: one for one in found}


@pytest.mark.parametrize("protection", [{}, {"protect": "adapter"}, SECOND["protection"]])
def test_a_mask_used_twice_gives_differences_away(
    tmp_path: Path, llama: Path, protection: dict[str, Any]
) -> None:
    tuning = {"layers": [1]} if protection == {"protect": "adapter"} else {}
    subject = Subject(make_run(tmp_path, llama, protection=protection, tuning=tuning))
    assert PAD_REUSE.applies(subject) == ""
    found = by_variant(PAD_REUSE.run(subject, quiet))
    assert set(found) == {"two calls of one process", "before and after a restart"}
    for one in found.values():
        assert one.verdict is Verdict.HELD
        assert one.baseline.value > 0.999
        assert one.baseline.trials > 60


def test_pads_that_repeat_are_seen(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product's own key stream, if its key did not change from start to start."""
    honest = watched.watched

    def repeating(small: Any, job_id: str, *, masked: bool, kept_secret: bytes | None) -> Any:
        kept = (kept_secret or bytes(32)) if masked else None
        return honest(small, job_id, masked=masked, kept_secret=kept)

    monkeypatch.setattr(pads, "watched", repeating)
    found = by_variant(PAD_REUSE.run(Subject(make_run(tmp_path, llama)), quiet))
    assert found["before and after a restart"].verdict is Verdict.BROKEN
    assert found["two calls of one process"].verdict is Verdict.HELD


def test_two_accelerators_together_see_everything(tmp_path: Path, llama: Path) -> None:
    subject = Subject(make_run(tmp_path, llama, **SECOND))
    assert COLLUSION.applies(subject) == ""
    found = by_variant(COLLUSION.run(subject, quiet))
    assert found["the accelerator alone"].verdict is Verdict.HELD
    together = found["both together"]
    assert together.verdict is Verdict.LIMIT
    assert together.protected is not None
    assert together.protected.value > 0.999


def test_runs_without_masks_or_without_a_second_accelerator(tmp_path: Path, llama: Path) -> None:
    split = Subject(make_run(tmp_path / "split", llama, **SPLIT))
    assert "nothing is masked" in PAD_REUSE.applies(split)
    assert "nothing is masked" in COLLUSION.applies(split)
    own = Subject(make_run(tmp_path / "own", llama))
    assert "no pad accelerator" in COLLUSION.applies(own)
    bare = make_run(tmp_path / "bare", llama, protection={"protect": "insecure-none"})
    assert "insecure-none" in PAD_REUSE.applies(Subject(bare))
