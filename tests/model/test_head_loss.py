"""The loss that never holds all logits, against ``functional.cross_entropy`` of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from sealtune.model import head_loss, stored
from sealtune.model.head_loss import Rows, head_rows
from sealtune.model.load import load_model
from sealtune.model.rest import load_rest
from sealtune.model.stored import StoredEmbedding, StoredHead
from sealtune.model.tasks import CausalLM
from tests.float64 import in_float64
from tests.model.families import FAMILIES, make_family
from tests.model.test_load import spec
from tests.model.test_rest import NOTHING
from tests.model.test_tasks import task_of
from tests.model.tiny import batch_of, make_texts

PROCESSED = ("gemma2", "gemma3", "granite", "cohere", "cohere2")  # cap, cap, scales


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two or three rows of logits at a time, and a few rows of the matrix."""
    monkeypatch.setattr(head_loss, "_LOGITS", 1000)
    monkeypatch.setattr(stored, "_CONVERTED", 100)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(2, 30),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from([1e-3, 1.0, 300.0]),
    st.integers(0, 2**31),
)
def test_loss_and_gradient_equal_cross_entropy(
    rows: int, vocabulary: int, width: int, bias: bool, size: float, seed: int
) -> None:
    with in_float64(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_loss, "_LOGITS", 3 * vocabulary)
        patch.setattr(stored, "_CONVERTED", 2 * width)
        torch.manual_seed(seed)
        plain = nn.Linear(width, vocabulary, bias=bias).requires_grad_(False)
        head = StoredHead(plain.weight.detach(), plain.bias if bias else None)
        hidden = (size * torch.randn(rows, width)).requires_grad_()
        targets = torch.randint(0, vocabulary, (rows,))
        expected = functional.cross_entropy(plain(hidden), targets)
        (right,) = torch.autograd.grad(expected, hidden)
        for one in (plain, head):
            loss = Rows(one, hidden, targets).loss()
            (gradient,) = torch.autograd.grad(3 * loss, hidden)
            torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(gradient, 3 * right, rtol=1e-11, atol=1e-12)
            correct, total = Rows(one, hidden.detach(), targets).answers()
            assert total == pytest.approx(float(expected.detach()) * rows, rel=1e-12)
            assert correct == int((plain(hidden).argmax(1) == targets).sum())


@pytest.mark.usefixtures("in_small_parts")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_its_own_loss(tmp_path: Path, name: str) -> None:
    """Those that scale or cap their logits are left alone, the others are taken apart."""
    folder = make_family(name, tmp_path / "model")
    task = task_of(folder, "causal-lm", labels=())
    assert isinstance(task, CausalLM)
    batch = batch_of(task, make_texts(5, 3))
    where = spec(folder, "causal-lm")
    with in_float64():
        found = load_rest(where, None, NOTHING).double()
        exact = load_model(where, None).double()
        assert (head_rows(found, found, batch) is None) is (name in PROCESSED)
        tuned = [name for name, _ in found.named_parameters()]  # all but head and embedding
        got = gradients(found, tuned, lambda: task.loss(found, batch))
        logits, targets = task._pairs(exact, batch)
        right = gradients(
            exact, tuned, lambda: functional.cross_entropy(task._pairs(exact, batch)[0], targets)
        )
        for mine, theirs in zip(got, right, strict=True):
            # some families round to float32 on their way
            assert float((mine - theirs).norm()) <= 1e-7 * float(theirs.norm()) + 1e-12
        with torch.no_grad():
            outcome = task.outcome(found, batch)
        assert outcome.correct == int((logits.argmax(1) == targets).sum())
        assert outcome.loss_sum == pytest.approx(float(right[0]) * len(targets), rel=1e-7)


def gradients(model: Any, tuned: Sequence[str], loss_of: Callable[[], Tensor]) -> list[Tensor]:
    """The loss, and its gradients."""
    parameters = [model.get_parameter(name).requires_grad_() for name in tuned]
    loss = loss_of()
    return [loss.detach(), *torch.autograd.grad(loss, parameters)]


def test_a_family_that_nobody_knows_is_found_out(llama: Path) -> None:
    """Whatever it does to its logits, the loss is its own; dropout is as if no pass had failed."""
    task = task_of(llama, "causal-lm", labels=())
    batch = batch_of(task, make_texts(5, 3))
    model = load_rest(spec(llama, "causal-lm"), None, NOTHING)
    forward = model.forward

    def capped(**inputs: Any) -> Any:
        result = forward(**inputs)
        result.logits = torch.tanh(result.logits + torch.rand(()))
        return result

    model.forward = capped
    torch.manual_seed(1)
    loss = task.loss(model, batch)
    torch.manual_seed(1)
    logits, targets = task._pairs(model, batch)
    assert torch.equal(loss, functional.cross_entropy(logits, targets))
    torch.manual_seed(1)
    assert torch.equal(loss, task.loss(model, batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_stored_matrices_compute_as_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 12).to(dtype)
    ids = torch.randint(0, 50, (3, 5))
    embedded = StoredEmbedding(weight)(ids)
    assert embedded.dtype == torch.float32
    assert torch.equal(embedded, functional.embedding(ids, weight.float()))
    logits = StoredHead(weight, None)(embedded.double())
    right = embedded.double() @ weight.double().t()
    torch.testing.assert_close(logits, right, rtol=1e-12, atol=1e-12)


def test_no_part_holds_more_logits_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    head = nn.Linear(4, 100, bias=False).requires_grad_(False)
    head.register_forward_hook(lambda _head, _args, logits: seen.append(logits.numel()))
    monkeypatch.setattr(head_loss, "_LOGITS", 1000)
    Rows(head, torch.randn(64, 4, requires_grad=True), torch.zeros(64, dtype=torch.long)).loss()
    assert max(seen) <= 1000
    assert sum(seen) == 64 * 100
