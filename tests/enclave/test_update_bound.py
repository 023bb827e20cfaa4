"""The bound of a round's movement against torch's AdamW under the worst gradients there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sealtune.errors import UpdateBoundError
from sealtune.job.schedule import rate_shares
from sealtune.job.sections import LoraSpec, TrainSpec, TuningSpec
from sealtune.methods.federated.update import read_update
from sealtune.methods.federated.update_bound import LARGEST_STEP, UpdateBound

NAME = "base_model.model.layers.0.q_proj.lora_A.weight"


def adapter(value: float) -> dict[str, np.ndarray]:
    return {NAME: np.full((2, 4), value, np.float32)}


def bound(spec: TrainSpec, tuning: TuningSpec | None = None, number: int = 1) -> UpdateBound:
    """Of a round in a job of ten."""
    shares = rate_shares(spec, spec.steps(30), number, 10)
    return UpdateBound(spec, tuning or TuningSpec(), shares)


def trained(
    spec: TrainSpec, start: float, gradients: Sequence[float], number: int = 1
) -> list[float]:
    """Where AdamW takes a number, step after step, in a round of a job of ten."""
    shares = rate_shares(spec, len(gradients), number, 10)
    value = torch.nn.Parameter(torch.full((1,), start, dtype=torch.float64))
    optimizer = torch.optim.AdamW([value], lr=spec.learning_rate, weight_decay=spec.weight_decay)
    path = [start]
    for gradient, share in zip(gradients, shares, strict=True):
        optimizer.param_groups[0]["lr"] = spec.learning_rate * share
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
    read_update(adapter(end), adapter(start), bound(spec).limits({NAME: abs(start)}))


@pytest.mark.parametrize("decay", [0.0, 0.1, 100.0])
@pytest.mark.parametrize("number", [1, 2, 5, 10])
@pytest.mark.parametrize("ratio", [1.0, 1.11, 3.0])
def test_a_schedule_bounds_each_round_by_its_own_rates(
    decay: float, number: int, ratio: float
) -> None:
    """An honest round passes; one at the whole rate does not where the schedule has a tenth."""
    spec = TrainSpec(
        learning_rate=1e-3, weight_decay=decay, steps_per_round=10, schedule="cosine", warmup=0.1
    )
    limits = bound(spec, number=number).limits({NAME: 0.3})
    end = trained(spec, 0.3, growing(10, ratio), number)[-1]
    read_update(adapter(end), adapter(0.3), limits)
    if number == 10 and ratio == 1.11 and not decay:
        whole = trained(spec.model_copy(update={"schedule": "constant"}), 0.3, growing(10, ratio))
        with pytest.raises(UpdateBoundError):
            read_update(adapter(whole[-1]), adapter(0.3), limits)


def test_each_tensor_has_the_bound_of_its_own_rate() -> None:
    """With LoRA+ B moves faster: an honest B passes, and A is held to its own rate."""
    spec = TrainSpec(learning_rate=1e-3, weight_decay=0.1, steps_per_round=5)
    tuning = TuningSpec(lora=LoraSpec(learning_rate_ratio=16.0))
    one, faster = bound(spec), bound(spec, tuning)
    names = dict.fromkeys((NAME, NAME.replace("lora_A", "lora_B")), 0.3)
    slow, fast = one.limits(names), faster.limits(names)
    b = NAME.replace("lora_A", "lora_B")
    assert fast[NAME] == slow[NAME] == slow[b]
    quick = spec.model_copy(update={"learning_rate": 16e-3})
    assert fast[b] == pytest.approx(bound(quick).limits(names)[b])
    end = trained(quick, 0.3, growing(5, 1.11))[-1]
    assert abs(end - 0.3) <= fast[b]
    assert abs(end - 0.3) > slow[b]


def test_the_bound_of_a_step_can_all_but_be_reached() -> None:
    spec = TrainSpec(learning_rate=1.0, steps_per_round=1)
    path = trained(spec, 0.0, [0.0] * 3000 + growing(100, 1.11))
    assert 0.95 * LARGEST_STEP < path[-1] - path[-2] <= LARGEST_STEP


@pytest.mark.parametrize("factor", [1.05, -1.05, 100.0, float("inf"), float("nan")])
def test_beyond_the_bound_is_refused(factor: float) -> None:
    train = TrainSpec(learning_rate=1e-3, steps_per_round=4)
    limits = bound(train).limits({NAME: 0.25})
    move = limits[NAME]
    inside = adapter(0.25 + move * 0.99)
    read_update(inside, adapter(0.25), limits)
    outside = {NAME: inside[NAME].copy()}
    outside[NAME][1, 3] = 0.25 + factor * move
    with pytest.raises(UpdateBoundError, match=r"lora_A\.weight was moved by more than"):
        read_update(outside, adapter(0.25), limits)
