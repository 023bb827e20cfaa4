"""Learning rates and their schedule, held against torch and transformers by themselves."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from sealtune.job.schedule import rate_shares
from sealtune.job.sections import LoraSpec, SpfSpec, TrainSpec, TuningSpec
from sealtune.model.batches import step_batches
from sealtune.model.load import load_model
from sealtune.model.trainable import trainable_parameters, trainable_state
from sealtune.model.training import local_round, make_optimizer
from sealtune.tuning.apply import apply_tuning
from tests.float64 import in_float64
from tests.model.test_load import spec
from tests.model.test_tasks import task_of
from tests.model.tiny import make_texts

ROUNDS, STEPS, WARM = 3, 4, 3  # 3 of 12 steps
COSINE = TrainSpec(
    steps_per_round=STEPS, batch_size=8, learning_rate=3e-3, schedule="cosine", warmup=0.25
)
CONSTANT = COSINE.model_copy(update={"schedule": "constant"})
BOTH = TuningSpec(
    lora=LoraSpec(rank=2, learning_rate=2e-3, learning_rate_ratio=4.0),
    spf=SpfSpec(qkv=0.5, dense=0.5, learning_rate=5e-4),
)
OWN = COSINE.model_copy(update={"head_learning_rate": 7e-3})
RATES = {".lora_A.": 2e-3, ".lora_B.": 8e-3, ".spf.delta": 5e-4, "score.": 7e-3}


def tuned(folder: Path, tuning: TuningSpec = BOTH) -> Any:
    return apply_tuning(
        load_model(spec(folder, "classification"), 3), tuning, "classification", 0
    ).double()


def theirs(optimizer: torch.optim.Optimizer, train: TrainSpec) -> Any:
    """Of all steps; one longer than the job, and begun at the second: none has a rate of 0."""
    total = ROUNDS * STEPS + 1
    if train.schedule == "cosine":
        made = get_cosine_schedule_with_warmup(optimizer, WARM, total)
    else:
        made = get_constant_schedule_with_warmup(optimizer, WARM)
    optimizer.step()  # of no gradients, or torch warns of the order
    made.step()
    return made


def written_out(model: Any, task: Any, texts: Any, train: TrainSpec, *, fresh: bool) -> None:
    """The whole job, step by step, with torch's optimizer and transformers' schedule."""

    def optimizer() -> torch.optim.AdamW:
        groups = [
            {"params": [p], "lr": next(r for part, r in RATES.items() if part in name)}
            for name, p in trainable_parameters(model).items()
        ]
        return torch.optim.AdamW(groups, weight_decay=train.weight_decay)

    steps = optimizer()
    rates = theirs(steps, train)
    batches: Iterator[list[int]] = iter(
        step_batches(texts.lengths, train.batch_size, 0, ROUNDS * STEPS, 7, "a")
    )
    model.train()
    for number, batch in enumerate(batches):
        if fresh and number and number % STEPS == 0:
            anew = optimizer()
            for mine, before in zip(anew.param_groups, steps.param_groups, strict=True):
                mine["lr"] = before["lr"]
                mine["initial_lr"] = before["initial_lr"]
            steps = rates.optimizer = anew
        steps.zero_grad()
        task.loss(model, texts.batch(batch)).backward()
        steps.step()
        rates.step()


@pytest.mark.parametrize("train", [COSINE, CONSTANT], ids=["cosine", "constant"])
def test_shares_are_those_of_transformers(train: TrainSpec) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made, expected = theirs(optimizer, train), []
    for _ in range(ROUNDS * STEPS):
        expected += made.get_last_lr()
        optimizer.step()
        made.step()
    found = [share for n in range(ROUNDS) for share in rate_shares(train, STEPS, n + 1, ROUNDS)]
    assert found == pytest.approx(expected, abs=1e-15)
    assert min(found) > 0
    assert max(found) == 1


@pytest.mark.parametrize("fresh", [True, False], ids=["federated", "split"])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_whole_job_is_that_of_torch_and_transformers(
    llama: Path, fresh: bool, schedule: str
) -> None:
    """In float64, with a rate for each part: AdamW anew in each round, or all along."""
    task, train = task_of(llama), OWN.model_copy(update={"schedule": schedule})
    texts = task.encode(make_texts(60, 3))
    with in_float64():
        ours = tuned(llama)
        other, without = copy.deepcopy(ours), copy.deepcopy(ours)
        optimizer = None if fresh else make_optimizer(ours, train)
        for number in range(1, ROUNDS + 1):
            local_round(
                ours, task, texts, train,
                seed=7, round=number, site="a", rounds=ROUNDS, optimizer=optimizer,
            )  # fmt: skip
        written_out(other, task, texts, train, fresh=fresh)
        flat = train.model_copy(update={"schedule": "constant", "warmup": 0.0})
        for number in range(1, ROUNDS + 1):
            local_round(without, task, texts, flat, seed=7, round=number, site="a")
    expected, plain = trainable_state(other), trainable_state(without)
    for name, tensor in trainable_state(ours).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)
    assert max(float((plain[n] - t).abs().max()) for n, t in expected.items()) > 1e-3


def test_every_part_has_its_own_rate(llama: Path) -> None:
    model = tuned(llama)
    optimizer = make_optimizer(model, OWN)
    found = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in trainable_parameters(model).items():
        assert found[id(parameter)] == next(r for part, r in RATES.items() if part in name)
        assert found[id(parameter)] == BOTH.learning_rate(name, OWN)
    alike = make_optimizer(tuned(llama, TuningSpec(lora=LoraSpec())), COSINE)
    assert [group["lr"] for group in alike.param_groups] == [3e-3]


def test_a_round_leaves_the_optimizer_with_its_whole_rates(llama: Path) -> None:
    """A split job's optimizer goes on: what a round has set must not be multiplied again."""
    model, task = tuned(llama).float(), task_of(llama)
    optimizer = make_optimizer(model, OWN)
    before = [group["lr"] for group in optimizer.param_groups]
    local_round(
        model, task, task.encode(make_texts(60, 3)), OWN,
        seed=7, round=1, site="a", rounds=ROUNDS, optimizer=optimizer,
    )  # fmt: skip
    assert [group["lr"] for group in optimizer.param_groups] == before


def test_a_round_beyond_the_schedule_is_refused(llama: Path) -> None:
    """Whoever forgets to say how many rounds there are must not train on with a wrong rate."""
    model, task = tuned(llama), task_of(llama)
    with pytest.raises(ValueError, match="round 2 of a job of 1"):
        local_round(model, task, task.encode(make_texts(60, 3)), COSINE, seed=7, round=2, site="a")
    assert rate_shares(TrainSpec(), 3, 7, 1) == [1.0] * 3


@pytest.mark.parametrize(("warmup", "steps", "rises"), [(0.1, 30, 3), (0.01, 20, 1), (0.99, 4, 4)])
def test_warm_up_is_a_share_of_all_steps(warmup: float, steps: int, rises: int) -> None:
    train = TrainSpec(warmup=warmup)
    expected = [min(1.0, (i + 1) / rises) for i in range(steps)]
    assert rate_shares(train, steps, 1, 1) == pytest.approx(expected)
