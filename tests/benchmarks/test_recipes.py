"""Recipes and ratios: differences are paired, errors are those of a sum, pages follow from jobs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import recipes  # noqa: E402
import stored_jobs  # noqa: E402
import table_ratios  # noqa: E402
import top_jobs  # noqa: E402
import top_steps  # noqa: E402
from stored_jobs import Stored  # noqa: E402

PLACE = top_jobs.Place("nowhere", "nowhere")


def job(right: str, **settings: Any) -> Stored:
    share = right.count("1") / len(right)
    figures = {"accuracy": share, "right": right, "loss": 1.0, "trainable": 9, "majority": 0.5}
    return Stored(settings, figures, 1.0, {})


def test_a_difference_is_paired_by_seed_and_row() -> None:
    ones, others = [job("1110"), job("1100")], [job("1010"), job("0100")]
    gap = top_jobs.difference(ones, others)
    assert gap.mean == pytest.approx(25.0)
    assert gap.over_seeds == pytest.approx(0.0)  # the same in both seeds
    by_row = np.array([50.0, 50.0, 0.0, 0.0])
    assert gap.over_rows == pytest.approx(by_row.std(ddof=1) / 2)
    assert top_jobs.difference(ones[:1], others[:1]).over_seeds is None
    assert top_jobs.difference(others, ones).mean == pytest.approx(-25.0)


def test_the_mean_over_sets_adds_variances() -> None:
    mean = top_jobs.mean_gap([top_jobs.Gap(1.0, 0.3, 0.6), top_jobs.Gap(3.0, 0.4, 0.8)])
    assert (mean.mean, mean.over_seeds, mean.over_rows) == pytest.approx((2.0, 0.25, 0.5))
    assert top_jobs.mean_gap([mean, top_jobs.Gap(0.0, None, 0.1)]).over_seeds is None


def test_settings_hold_what_a_preset_stands_for() -> None:
    one = top_jobs.TopJob("icd10", {"preset": "spf-vo"}, 1, 1e-3, top_jobs.CPU)
    tuning = one.settings["tuning"]
    assert "preset" not in tuning
    assert tuning["spf"]["value"] == 1.0
    spelled = top_jobs.TopJob("icd10", tuning, 1, 1e-3, top_jobs.CPU)
    assert spelled.settings == one.settings


def test_arms_have_as_many_parameters_as_they_say() -> None:
    """Of a block of SmolLM2-135M: 9 query and 3 key/value heads of 64, hidden 576, MLP 1,536."""
    qkvo = 2 * (576 + 576) + 2 * (576 + 192)
    mlp = 3 * (576 + 1536)
    paper = 64 * 576 * (2 + 1 + 1 + 2) + 8 * qkvo
    vo = 64 * 576 * (3 + 2) + 8 * ((576 + 576) + (576 + 192) + mlp)
    rank = recipes.ARMS["rslora"]["lora"]["rank"] * qkvo
    assert (6 * paper, 6 * vo, 6 * rank) == (1_511_424, 1_502_208, 1_520_640)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """No job is trained: who answers what follows from its settings."""
    asked: list[dict[str, Any]] = []

    def trained(_table: str, jobs: list[Any], _place: Any, **_more: Any) -> list[Stored]:
        asked.extend(one.settings for one in jobs)
        return [job("1" * (5 + ("spf" in one.tuning)) + "0" * 5, **one.settings) for one in jobs]

    for module in (recipes, table_ratios):
        monkeypatch.setattr(module, "trained", trained)
        monkeypatch.setattr(module, "fetch", lambda *_: None)
    return asked


def options(**more: Any) -> argparse.Namespace:
    values = {"quick": False, "sets": ["icd10", "hpo"], "seeds": 2, "model": "", "data": ""}
    return argparse.Namespace(**{**values, "workers": 1, "fresh": False, **more})


def test_rates_are_chosen_on_rows_that_are_held_out(answered: list[dict[str, Any]]) -> None:
    found = recipes.Recipes(options())
    choosing = [one for one in answered if one["choose"]]
    assert {one["seed"] for one in choosing} == {top_jobs.TUNING_SEED}
    assert {one["rate"] for one in choosing} == set(recipes.GRID)
    final = [one for one in answered if not one["choose"]]
    assert len(final) == 2 * 2 * len(recipes.ARMS)
    assert {one["seed"] for one in final} == {1, 2}
    keys = found.keys()
    assert keys["spf_vo_minus_rslora_mean"] == 0.0
    assert keys["spf_vo_minus_rslora_over_seeds"] == 0.0
    assert recipes.markdown(found) == recipes.markdown(recipes.Recipes(options()))


def test_table_2_from_its_jobs(
    answered: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = {"trainable": 10, "step": [1.0, 0.9, 1.1], "memory": 2.0}

    def compare(_model: str, arms: dict[str, Any], _rounds: int, to: str) -> dict[str, Any]:
        assert to in arms
        two = {**step, "step": [1.25, 1.2, 1.3]}
        return {name: two if name == top_steps.TWO_PRODUCTS else step for name in arms}

    monkeypatch.setattr(top_steps, "compare", compare)
    monkeypatch.setattr(stored_jobs, "RESULTS", tmp_path)
    found = table_ratios.ratios(PLACE)
    assert len(answered) == 9 * table_ratios.SEEDS
    keys = table_ratios.figures(found)
    assert keys["one_product_step_ratio"] == 0.8
    assert keys["memory_ratio_25"] == 1.0
    assert len(keys["table_2"]) == 9
    again = table_ratios.ratios(PLACE)  # the steps are stored
    assert table_ratios.markdown(again) == table_ratios.markdown(found)
