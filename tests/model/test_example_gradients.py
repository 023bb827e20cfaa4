"""Clipped gradients of single examples: against one example at a time, and against Opacus."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sealtune.errors import ModelError, UnsupportedModelError
from sealtune.job.sections import TrainSpec
from sealtune.model.example_gradients import MARGIN, ExampleGradients, trainable_layers
from sealtune.model.private_gradients import Noise, PrivateGradients
from sealtune.model.tasks import Task
from sealtune.model.texts import Texts
from sealtune.privacy.noise import NoiseStream
from tests.float64 import in_float64
from tests.model.test_lora import adapted
from tests.model.test_tasks import task_of
from tests.model.tiny import make_texts

CLIP = 0.7


def begun(folder: Path, task: str, **tuning: Any) -> Any:
    """A model whose B matrices are not zero, so that every gradient is something."""
    model = adapted(folder, task=task, targets="all-linear", **tuning)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def examples(task: Task, count: int = 6) -> Texts:
    """Texts of several lengths, so that batches are padded."""
    texts = task.encode(make_texts(count, 5))
    assert len(set(texts.lengths)) > 2
    return texts


def one_by_one(model: Any, task: Task, texts: Texts, clip: float) -> dict[nn.Parameter, Tensor]:
    """The oracle: each example alone in a batch, its gradient from autograd, clipped, summed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    sums = {p: torch.zeros_like(p) for p in trained}
    for number in range(len(texts)):
        loss = task.losses(model, texts.batch([number])).sum()
        grads = torch.autograd.grad(loss, trained)
        norm = torch.cat([g.flatten() for g in grads]).norm()
        scale = min(1.0, clip * (1 - MARGIN) / float(norm))
        for parameter, gradient in zip(trained, grads, strict=True):
            sums[parameter] += scale * gradient
    return sums


def in_one_batch(model: Any, task: Task, texts: Texts, clip: float) -> dict[nn.Parameter, Tensor]:
    with ExampleGradients(model) as watched:
        task.losses(model, texts.batch(range(len(texts)))).sum().backward()
        return watched.clipped_sum(clip)


@pytest.mark.parametrize("task_name", ["classification", "label-words"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("clip", [0.05, CLIP, 1e6])
def test_one_batch_equals_one_example_at_a_time(
    request: pytest.FixtureRequest, family: str, task_name: str, clip: float
) -> None:
    """With all clipped, some, and none."""
    folder = request.getfixturevalue(family)
    model, task = begun(folder, task_name), task_of(folder, task_name)
    with in_float64():
        model = model.double()
        texts = examples(task)
        expected = one_by_one(model, task, texts, clip)
        found = in_one_batch(model, task, texts, clip)
    assert found.keys() == expected.keys()
    for parameter, gradient in expected.items():
        assert gradient.any()
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-12)


def test_opacus_has_the_same_gradients(llama: Path) -> None:
    """Hooks of its own, on the same model."""
    from opacus import GradSampleModule

    model, task = begun(llama, "classification"), task_of(llama, "classification")
    with in_float64(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model.double()
        texts = examples(task)
        found = in_one_batch(model, task, texts, CLIP)
        model.zero_grad()
        wrapped = GradSampleModule(model.train(), strict=False, loss_reduction="sum")
        task.losses(model, texts.batch(range(len(texts)))).sum().backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        each = [p.grad_sample.detach().clone() for p in trained]  # type: ignore[attr-defined]
        wrapped.remove_hooks()
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in each]).norm(dim=0)
    scale = (CLIP * (1 - MARGIN) / norms).clamp(max=1.0)
    assert (scale < 1).any()
    for parameter, gradient in zip(trained, each, strict=True):
        expected = torch.einsum("b,b...->...", scale, gradient)
        torch.testing.assert_close(found[parameter], expected, rtol=1e-9, atol=1e-12)


def test_no_example_adds_more_than_the_clip(llama: Path) -> None:
    """Attack: one row whose gradient is a million times as large as the others'."""
    model, task = begun(llama, "classification"), task_of(llama, "classification")
    texts = examples(task)
    trained = [p for p in model.parameters() if p.requires_grad]

    def total(weights: list[float]) -> Tensor:
        with ExampleGradients(model) as watched:
            losses = task.losses(model, texts.batch(range(len(texts))))
            (losses * torch.tensor(weights)).sum().backward()
            sums = watched.clipped_sum(CLIP)
        return torch.cat([sums[p].flatten() for p in trained])

    usual = total([0.0, 1, 1, 1, 1, 1])  # as if the first row were not there
    for huge in (1e6, -1e6):
        assert 0.9 * CLIP < (total([huge, 1, 1, 1, 1, 1]) - usual).norm() <= CLIP


def test_an_example_changes_no_other(llama: Path) -> None:
    """Sums over all rows but one differ by that row's own gradient: nothing else is in them."""
    model, task = begun(llama, "classification"), task_of(llama, "classification")
    with in_float64():
        model = model.double()
        texts = examples(task)
        whole = in_one_batch(model, task, texts, CLIP)
        with ExampleGradients(model) as watched:
            task.losses(model, texts.batch(range(1, len(texts)))).sum().backward()
            rest = watched.clipped_sum(CLIP)
        first = {p: whole[p] - rest[p] for p in whole}
        alone = one_by_one(model, task, task.encode(make_texts(len(texts), 5)[:1]), CLIP)
    for parameter, gradient in alone.items():
        torch.testing.assert_close(first[parameter], gradient, rtol=1e-9, atol=1e-12)


def test_an_evaluation_between_is_not_seen(llama: Path) -> None:
    model, task = begun(llama, "classification"), task_of(llama, "classification")
    texts = examples(task)
    with ExampleGradients(model) as watched:
        with torch.no_grad():
            task.losses(model, texts.batch([0]))
        task.losses(model, texts.batch([0, 1])).sum().backward()
        assert watched.clipped_sum(CLIP)
        task.losses(model, texts.batch([0])).sum().backward()
        task.losses(model, texts.batch([0])).sum().backward()
        with pytest.raises(ModelError, match="2 times forward"):
            watched.clipped_sum(CLIP)


def test_what_is_no_linear_layer_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="0, which is a Embedding"):
        trainable_layers(nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2)))
    shared = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match="is used twice"):
        trainable_layers(nn.Sequential(shared, shared))


class _Silent(NoiseStream):
    """Draws rows as it does, and no noise; says what deviation was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def add_noise(self, values: Any, deviation: float) -> Any:
        self.asked.append(deviation)
        return values.astype("float64")


def private(model: Any, task: Task, texts: Texts, size: int) -> tuple[PrivateGradients, _Silent]:
    spec = TrainSpec(steps_per_round=1, batch_size=size)
    made = PrivateGradients(model, task, texts, spec, Noise(CLIP, 1.5))
    made._stream = silent = _Silent()
    return made, silent


def test_a_step_of_all_rows_is_their_clipped_mean(llama: Path) -> None:
    """Rows are 10, a step has 10 on average, so each is drawn; parts of it make no difference."""
    model, task = begun(llama, "classification"), task_of(llama, "classification")
    with in_float64():
        model = model.double()
        texts = examples(task, 10)
        expected = one_by_one(model, task, texts, CLIP)
        for size, at_once in ((10, 10), (10, 4), (64, 3)):
            gradients, silent = private(model, task, texts, size)
            gradients._at_once = at_once
            loss, tokens = gradients.fill()
            assert loss > 0
            assert tokens >= sum(texts.lengths)
            assert set(silent.asked) == {1.5 * CLIP}
            for parameter, gradient in expected.items():
                assert parameter.grad is not None
                torch.testing.assert_close(parameter.grad, gradient / 10, rtol=1e-9, atol=1e-12)


def test_a_step_without_rows_is_noise_alone(llama: Path) -> None:
    model, task = begun(llama, "classification"), task_of(llama, "classification")
    gradients, _ = private(model, task, examples(task), 1)
    gradients._rate = 0.0
    assert gradients.fill() == (0.0, 0)
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)
    gradients._stream = NoiseStream()
    gradients.fill()
    noise = torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
    assert float(noise.std()) == pytest.approx(1.5 * CLIP, rel=0.05)  # over one row a step


def test_the_divisor_is_no_secret(llama: Path) -> None:
    """However many rows were drawn, the sum is divided by as many as there are on average."""
    model, task = begun(llama, "classification"), task_of(llama, "classification")
    texts = examples(task, 10)
    gradients, _ = private(model, task, texts, 2)
    monkey: list[list[int]] = [[0], [0, 0]]
    gradients._stream.chosen = lambda *_: monkey.pop(0)  # type: ignore[method-assign]
    sums = []
    for _ in range(2):
        gradients.fill()
        sums.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    torch.testing.assert_close(2 * sums[0], sums[1], rtol=1e-4, atol=1e-7)
