"""The tuning benchmark keeps what is done, chooses rates by held-out rows, draws what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import tuning  # noqa: E402
import tuning_plot  # noqa: E402


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEALTUNE_CACHE", str(tmp_path))
    return tmp_path


def test_it_goes_on_where_it_was_killed(cache: Path) -> None:
    run = tuning.Run("hpo", "lora", 1, tuning.Size())
    store = tuning.Store(fresh=True)
    scores = [(0.3, 2.0), (0.4, 2.5), (0.4, 2.4)]
    for trial, (accuracy, loss) in zip(run.trials, scores, strict=True):
        assert store.with_rate(run) is None
        store.add(trial.key, {"accuracy": accuracy, "loss": loss})
    best = store.with_rate(run)
    assert best is not None
    assert best.rate == tuning.GRIDS["lora"][2]  # as many right answers, and a lower loss
    store.add(best.key, {"local": {}})
    file = cache / "benchmarks" / "tuning-runs.jsonl"
    file.write_text(file.read_text() + '{"key": "half a li')
    assert tuning.Store(fresh=False).done == store.done
    assert tuning.Store(fresh=True).done == {}


def test_every_figure_is_drawn() -> None:
    share = {"mean": 0.25, "seeds": [0.2, 0.31]}
    ways = {way: {"all": share, "own": share} for way in tuning.WAYS}
    drawing = tuning_plot.draw({"hpo": {"lora": ways, "ptuning": ways}})
    root = ElementTree.fromstring(drawing)
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "hpo, ptuning, federated, own rows: 25.0 %" in titles
    assert len(titles) == 1 + 2 * 3 * 2
