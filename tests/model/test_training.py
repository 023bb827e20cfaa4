from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sealtune.errors import ModelError
from sealtune.job.sections import TrainSpec
from sealtune.model.private_gradients import Noise, PrivateGradients
from sealtune.model.trainable import (
    load_trainable_state,
    trainable_parameters,
    trainable_state,
)
from sealtune.model.training import (
    RoundResult,
    StepInfo,
    evaluate,
    local_round,
    make_optimizer,
)
from tests.float64 import in_float64
from tests.model.test_lora import adapted
from tests.model.test_tasks import task_of
from tests.model.tiny import make_texts

SPEC = TrainSpec(steps_per_round=12, batch_size=8, learning_rate=0.01)


def run(
    model: Any, task: Any, *, round: int = 1, spec: TrainSpec = SPEC, **more: Any
) -> RoundResult:
    texts = make_texts(60, 3)
    return local_round(model, task, task.encode(texts), spec, seed=7, round=round, site="a", **more)


@pytest.mark.parametrize("name", ["classification", "label-words", "causal-lm"])
def test_every_task_learns(llama: Path, name: str) -> None:
    model = adapted(llama, task=name, targets="all-linear", alpha=32)
    task = task_of(llama, name)
    texts = task.encode(make_texts(60, 3))
    before = evaluate(model, task, texts, batch_size=16)
    for number in (1, 2, 3, 4):
        run(model, task, round=number)
    after = evaluate(model, task, texts, batch_size=16)
    assert after.loss < 0.8 * before.loss
    assert after.correct > before.correct
    assert len(after.predicted) == (0 if name == "causal-lm" else 60)


def test_a_round_repeats_bit_for_bit_with_dropout(llama: Path) -> None:
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model = adapted(llama, dropout=0.2)
        result = run(model, task_of(llama))
        results.append((result, trainable_state(model)))
    (one, state), (two, other) = results
    assert one == two
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_resuming_at_a_round_gives_the_same(llama: Path) -> None:
    task = task_of(llama)
    straight = adapted(llama)
    run(straight, task, round=1)
    saved = {n: t.clone() for n, t in trainable_state(straight).items()}
    run(straight, task, round=2)
    resumed = adapted(llama)
    load_trainable_state(resumed, saved)
    run(resumed, task, round=2)
    expected = trainable_state(straight)
    assert all(torch.equal(t, expected[n]) for n, t in trainable_state(resumed).items())


def test_steps_and_batches_are_announced(llama: Path) -> None:
    model, task = adapted(llama), task_of(llama)
    seen: list[StepInfo] = []
    result = run(model, task, on_step=seen.append)
    assert [info.step for info in seen] == list(range(1, 13))
    assert result.tokens == sum(info.tokens for info in seen)
    assert result.train_loss == pytest.approx(sum(info.loss for info in seen) / 12)
    batches: list[int] = []
    texts = task.encode(make_texts(9, 0))
    evaluate(model, task, texts, batch_size=4, on_batch=batches.append)
    assert len(batches) == 3
    assert sum(batches) >= sum(texts.lengths)


def test_predictions_come_back_in_the_order_given(llama: Path) -> None:
    model, task = adapted(llama), task_of(llama)
    run(model, task)
    texts = make_texts(21, 5)
    answers = evaluate(model, task, task.encode(texts), batch_size=4).predicted
    alone = [
        evaluate(model, task, task.encode([text]), batch_size=1).predicted[0] for text in texts
    ]
    assert list(answers) == alone


def test_no_test_rows_give_zero(llama: Path) -> None:
    task = task_of(llama)
    result = evaluate(adapted(llama), task, task.encode([]), batch_size=4)
    assert (result.correct, result.total, result.loss) == (0, 0, 0.0)


def test_divergence_is_an_error_with_advice(llama: Path) -> None:
    model, task = adapted(llama), task_of(llama)
    with torch.no_grad():
        model.get_input_embeddings().weight[5:] = float("nan")
    with pytest.raises(ModelError, match=r"lower train\.learning_rate"):
        run(model, task)


def test_an_adapter_that_takes_no_part_is_an_error(llama: Path) -> None:
    model = adapted(llama, layers=(1,))
    block = model.get_base_model().model.layers[1]
    block.forward = lambda hidden_states, **_: hidden_states
    with pytest.raises(ModelError, match="did not move"):
        run(model, task_of(llama))


def test_a_frozen_tensor_that_moves_is_an_error(llama: Path) -> None:
    model = adapted(llama)

    def meddle(_: StepInfo) -> None:
        with torch.no_grad():
            model.get_input_embeddings().weight[0] += 1

    with pytest.raises(ModelError, match=r"frozen tensor .*embed_tokens.* was changed"):
        run(model, task_of(llama), on_step=meddle)


def test_private_rounds_learn_and_no_seed_repeats_them(llama: Path) -> None:
    """Little noise: as without it, the loss falls. The job's seed draws neither rows nor noise."""
    task = task_of(llama)
    texts = task.encode(make_texts(60, 3))
    spec = SPEC.model_copy(update={"steps_per_round": 40})
    states = []
    for _ in range(2):
        model = adapted(llama, targets="all-linear", alpha=32, dropout=0.1)
        before = evaluate(model, task, texts, batch_size=16)
        private = PrivateGradients(model, task, texts, spec, Noise(clip=1.0, multiplier=0.05))
        result = run(model, task, spec=spec, private=private)
        assert (result.steps, result.frozen_unchanged) == (40, True)
        assert evaluate(model, task, texts, batch_size=16).loss < 0.8 * before.loss
        states.append(trainable_state(model))
    one, two = states
    assert not any(torch.equal(one[name], two[name]) for name in one)


class Penalised:
    """A task whose loss has FedProx's penalty written out."""

    def __init__(self, task: Any, model: Any, weight: float) -> None:
        self._task, self._weight = task, weight
        self.encode = task.encode
        self._start = {n: t.clone() for n, t in trainable_state(model).items()}

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        away = [
            (parameter - self._start[name]).square().sum()
            for name, parameter in trainable_parameters(model).items()
        ]
        return self._task.loss(model, batch) + self._weight / 2 * torch.stack(away).sum()


def test_the_proximal_term_is_that_of_a_penalised_loss(llama: Path) -> None:
    with in_float64():
        ours, written, free = (adapted(llama).double() for _ in range(3))
        task = task_of(llama)
        run(ours, task, proximal=0.7)
        run(written, Penalised(task, written, 0.7))
        run(free, task)
    expected, unbound = trainable_state(written), trainable_state(free)
    for name, tensor in trainable_state(ours).items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)
    assert max(float((unbound[n] - t).abs().max()) for n, t in expected.items()) > 1e-3


def test_losses_are_without_the_proximal_term(llama: Path) -> None:
    task, steps = task_of(llama), TrainSpec(steps_per_round=2, batch_size=8, learning_rate=0.01)
    bound, free = (run(adapted(llama), task, spec=steps, proximal=weight) for weight in (1e6, 0.0))
    assert bound.losses[0] == free.losses[0]  # at the start there is no distance
    assert bound.losses[1] < 10


def test_a_rate_that_decays_falls_to_nothing(llama: Path) -> None:
    model, spec = adapted(llama), TrainSpec(steps_per_round=5, batch_size=8, learning_rate=0.01)
    optimizer, rates = make_optimizer(model, spec), []
    optimizer.register_step_pre_hook(
        lambda stepped, *_: rates.append(stepped.param_groups[0]["lr"])
    )
    run(model, task_of(llama), spec=spec, optimizer=optimizer, decays=True)
    assert rates == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])
