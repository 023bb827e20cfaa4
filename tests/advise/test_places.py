"""Where a site's step could be computed: miniatures, their scale, and the choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealtune.advise import assess as assessing
from sealtune.advise import measure as measuring
from sealtune.advise.costs import Batch
from sealtune.advise.miniature import write_miniature
from sealtune.advise.places import Measured, fastest, places_of, scale
from sealtune.advise.shape import read_shape
from sealtune.job.job_file import EquipmentSpec
from sealtune.model.load import load_model
from tests.advise.conftest import BLOCKS, CLASSES
from tests.advise.test_choose import COUNTS
from tests.sample_job import make_job

WAYS = ("body/cpu/fp32", "body/cpu/bf16", "head/cpu/fp32", "head/cpu/bf16")
PIECES = {"step": 1.0, "cpu": 1.5, "accelerator": 0.2, "pads": 0.0, "passes": 0.1}
PARTS = {
    **{way: {**PIECES, "step": 1.0} for way in WAYS},
    "head/cpu/fp32": {**PIECES, "step": 2.0, "cpu": 3.5},
    "body/masked": {**PIECES, "step": 0.8},
    "body/inline": {**PIECES, "step": 1.3, "cpu": 2.1, "pads": 0.4},
}


@pytest.fixture
def settings(llama: Path) -> dict[str, Any]:
    return {
        "model": {"path": str(llama), "task": "causal-lm"},
        "tuning": {"lora": {"rank": 8}},
        "precision": "fp32", "blocks": 2, "vocabulary": 128, "rows": 2, "length": 8,
    }  # fmt: skip


def test_a_miniature_is_the_first_blocks_of_a_model(llama: Path, tmp_path: Path) -> None:
    job = make_job(llama)
    spec = write_miniature(job.model, tmp_path / "small", blocks=2, vocabulary=80)
    small, whole = load_model(spec, None), load_model(job.model, CLASSES, meta=True)
    of_whole = {n: p.shape for n, p in whole.named_parameters() if ".layers." in n}
    of_small = {n: p.shape for n, p in small.named_parameters() if ".layers." in n}
    assert len(of_small) == len(of_whole) * 2 // BLOCKS
    assert all(of_whole[name] == shape for name, shape in of_small.items())
    assert small.get_input_embeddings().weight.shape[0] == 80


def test_every_place_is_measured_with_pieces(settings: dict[str, Any]) -> None:
    parts = measuring.measure({**settings, "seconds": 0.1})["parts"]
    assert set(parts) == set(PARTS)
    assert all(parts[way]["step"] > 0 for way in parts)
    assert all(parts[way]["cpu"] > 0 for way in parts)
    for way in ("body/masked", "body/inline"):
        assert parts[way]["accelerator"] > 0
        assert parts[way]["passes"] > 0


def test_scale_is_blocks_tokens_and_vocabulary(llama: Path, settings: dict[str, Any]) -> None:
    job = make_job(llama, model={"task": "causal-lm"})
    shape = read_shape(job, None)
    found = scale({**settings, "parts": PARTS}, job, shape, Batch(64.0, 8.0))
    assert found.blocks == pytest.approx(4 * BLOCKS / 2)  # four times the tokens
    assert found.head == pytest.approx(4 * shape.vocabulary / 128)
    # attention grows with the length
    longer = scale({**settings, "parts": PARTS}, job, shape, Batch(64.0, 64.0))
    assert longer.blocks > found.blocks
    # blocks below the first tuned one have no backward pass
    late = make_job(llama, model={"task": "causal-lm"}, tuning={"lora": {"layers": [3]}})
    part = scale({**settings, "parts": PARTS}, late, read_shape(late, None), Batch(64.0, 8.0))
    assert part.blocks < found.blocks


def test_pieces_add_up_and_pads_are_what_inline_takes_longer(llama: Path) -> None:
    measured = Measured(PARTS, blocks=10.0, head=3.0, of=2)
    job = make_job(llama, model={"task": "causal-lm"})
    places = {place.name: place for place in places_of(measured, job)}
    head = (2.0 - 1.0 / 2) * 3
    assert places["masked"].seconds["pads"] == pytest.approx(10 * (1.3 - 0.8))
    assert places["masked"].step == pytest.approx(10 * 1.3 + head)
    assert places["second accelerator"].step == pytest.approx(10 * 0.8 + head)
    assert places["enclave"].step == pytest.approx(10 * 1.0 + head)
    assert "attested GPU" not in places  # there was none
    head_cpu = (3.5 - 1.5 / 2) * 3  # of processor time
    assert places["masked"].cpu == pytest.approx(10 * 2.1 + head_cpu)
    assert places["second accelerator"].cpu == pytest.approx(10 * 1.5 + head_cpu)
    assert places["enclave, bf16"].cpu == pytest.approx(10 * 1.5 + (1.5 - 1.5 / 2) * 3)


def test_the_fastest_is_of_the_jobs_own_precision(llama: Path) -> None:
    places = places_of(Measured(PARTS, 10.0, 0.0, 2), make_job(llama))
    quick = [replace(p, seconds={"enclave": 0.1}) if p.precision == "bf16" else p for p in places]
    assert fastest(quick, "fp32").name == "second accelerator"
    assert fastest(quick, "bf16").name == "enclave, bf16"


def test_measured_steps_are_method_1s_time(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(llama)

    def hours(seconds: float, stated: EquipmentSpec) -> float:
        parts = {**PARTS, "body/masked": {**PIECES, "step": seconds},
                 "body/inline": {**PIECES, "step": 2 * seconds}}  # fmt: skip
        measured = Measured(parts, 10.0, 0.0, 2)
        monkeypatch.setattr(assessing, "measure_places", lambda *_: measured)
        monkeypatch.setattr(assessing, "count_data", lambda *_: COUNTS)
        found = assessing.assess(job, ("a", "b", "c"), stated, probing=False, variables={})
        return next(o for o in found.options if o.protect == "adapter+data").hours

    assert hours(2.0, EquipmentSpec()) > hours(1.0, EquipmentSpec())
    other = EquipmentSpec(client_tee_tflops=1.0)  # not this machine
    assert hours(2.0, other) == hours(1.0, other)
