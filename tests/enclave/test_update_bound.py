"""The bound of a round's movement against torch's AdamW under the worst gradients there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from sealtune.errors import UpdateBoundError
from sealtune.job.sections import LoraSpec, TrainSpec, TuningSpec
from sealtune.job.spec import ModelSpec
from sealtune.methods.federated.update_bound import LARGEST_STEP, UpdateBound
from sealtune.model.load import load_model
from sealtune.model.trainable import trainable_state
from sealtune.tuning.apply import apply_tuning, first_values

NAME = "base_model.model.layers.0.q_proj.lora_A.weight"
FIRST = {NAME: 0.5}


def trained(spec: TrainSpec, start: float, gradients: Sequence[float]) -> list[float]:
    """Where AdamW takes a number, step after step."""
    value = torch.nn.Parameter(torch.full((1,), start, dtype=torch.float64))
    optimizer = torch.optim.AdamW([value], lr=spec.learning_rate, weight_decay=spec.weight_decay)
    path = [start]
    for gradient in gradients:
        value.grad = torch.full((1,), -gradient, dtype=torch.float64)
        optimizer.step()
        path.append(float(value.detach()))
    return path


def growing(steps: int, ratio: float) -> list[float]:
    return [ratio ** (step - steps) for step in range(steps)]


@pytest.mark.parametrize("decay", [0.0, 0.1, 100.0])
@pytest.mark.parametrize("steps", [1, 2, 10, 80])
@pytest.mark.parametrize("start", [0.0, 0.3, -0.3])
# growth by b2 / b1 each step is what Cauchy-Schwarz makes an equality
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.11, 3.0, 1e4])
def test_no_gradients_take_adamw_beyond_the_bound(
    decay: float, steps: int, start: float, ratio: float
) -> None:
    spec = TrainSpec(learning_rate=1e-3, weight_decay=decay, steps_per_round=steps)
    end = trained(spec, start, growing(steps, ratio))[-1]
    before = {NAME: np.full((1, 4), start, np.float32)}
    update = {NAME: np.full((1, 4), end, np.float32)}
    UpdateBound(spec, 30, FIRST).check(update, before)


def test_the_bound_of_a_step_can_all_but_be_reached() -> None:
    spec = TrainSpec(learning_rate=1.0, steps_per_round=1)
    path = trained(spec, 0.0, [0.0] * 3000 + growing(100, 1.11))
    assert 0.95 * LARGEST_STEP < path[-1] - path[-2] <= LARGEST_STEP


@pytest.mark.parametrize("factor", [1.05, -1.05, 100.0, float("inf"), float("nan")])
@pytest.mark.parametrize("first", [True, False])
def test_beyond_the_bound_is_refused(factor: float, first: bool) -> None:
    spec = TrainSpec(learning_rate=1e-3, steps_per_round=4)
    bound = UpdateBound(spec, 30, FIRST)
    start = FIRST[NAME] if first else 0.25
    before = None if first else {NAME: np.full((2, 4), start, np.float32)}
    inside = np.full((2, 4), start + bound.move * 0.99, np.float32)
    bound.check({NAME: inside}, before)
    outside = inside.copy()
    outside[1, 3] = (-start if first and factor < 0 else start) + factor * bound.move
    with pytest.raises(UpdateBoundError, match=r"lora_A\.weight was moved by"):
        bound.check({NAME: outside}, before)


def test_first_values_are_within_those_of_the_plan(llama: Path) -> None:
    """What the aggregator reads in the signed plan holds of what every site draws."""
    spec = ModelSpec(path=str(llama))
    tuning = TuningSpec(lora=LoraSpec(rank=4))
    for seed in range(20):
        model = apply_tuning(load_model(spec, 3), tuning, "classification", seed)
        bounds = first_values(model, tuning)
        state = trainable_state(model)
        assert bounds.keys() == state.keys()
        for name, tensor in state.items():
            assert float(tensor.abs().max()) <= bounds[name], name
            assert ".lora_B." in name or bounds[name] < 20 * float(tensor.abs().max())


def test_a_head_that_starts_far_out_is_still_inside() -> None:
    # the largest of a hundred million draws stays well below the nine that are allowed for
    draws = torch.randn(10_000_000, generator=torch.Generator().manual_seed(0))
    assert float(draws.abs().max()) < 9 - 2
