"""Masked products against the same int8 weights unmasked, and every way to misuse a pad."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import IntegrityError, ModelError, OffloadError, PadReuseError
from tests.offload.layers import INNER, Setup, Toy, make_setup


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("backbone"))


def relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float(((value - reference).norm() / reference.norm()).detach())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([1e-3, 0.3, 1.0])
)
def test_forward_and_gradient_equal_the_unmasked_model(
    setup: Setup, batch: int, length: int, seed: int, size: float
) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(batch, length, INNER) * size).requires_grad_(True)
    out = setup.reference(x)
    (expected,) = torch.autograd.grad(out.square().mean(), x)
    model = Toy().requires_grad_(False)
    with setup.session() as session:
        session.install(model)
        session.begin_step(batch * length, backward=True)
        masked = model(x)
        (gradient,) = torch.autograd.grad(masked.square().mean(), x)
    forward_error, backward_error = relative(masked, out), relative(gradient, expected)
    assert forward_error < 1e-4, f"forward differs by {forward_error:.2e}"
    assert backward_error < 2e-4, f"gradient differs by {backward_error:.2e}"


def test_a_second_step_needs_new_pads(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    session = setup.session()
    session.install(model)
    session.begin_step(6, backward=False)
    model(torch.randn(2, 3, INNER))
    with pytest.raises(PadReuseError, match="refusing to reuse"):
        model(torch.randn(2, 3, INNER))


def test_a_pad_of_another_size_is_refused(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    session = setup.session()
    session.install(model)
    session.begin_step(5, backward=False)
    with pytest.raises(OffloadError, match="covers 5 rows, not 6"):
        model(torch.randn(2, 3, INNER))


def test_layers_of_a_group_must_share_their_input(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    session = setup.session()
    session.install(model)
    session.begin_step(1, backward=False)
    model.q(torch.randn(1, INNER))
    with pytest.raises(OffloadError, match="another way than the slice plan saw"):
        model.k(torch.randn(1, INNER))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("bit", [0, 7, 8, 30, 31])
def test_a_lying_accelerator_is_caught(setup: Setup, backward: bool, bit: int) -> None:
    class Liar:
        def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
            result = setup.engine.product(group, codes, backward=backward)
            if backward == lie_backward:
                result[0, -1] ^= -(2**31) if bit == 31 else 1 << bit
            return result

        def close(self) -> None: ...

    lie_backward = backward
    model = Toy().requires_grad_(False)
    session = setup.session(Liar())
    session.install(model)
    session.begin_step(6, backward=True)
    x = torch.randn(2, 3, INNER, requires_grad=True)
    with pytest.raises(IntegrityError, match="backward" if backward else "forward"):
        model(x).sum().backward()


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    fresh = make_setup(tmp_path)
    path = Path(fresh.plan.backbone.path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelError, match="is not the tensor"):
        fresh.session()


def test_a_model_without_a_planned_layer_is_refused(setup: Setup) -> None:
    with pytest.raises(ModelError, match="no module"):
        setup.session().install(torch.nn.Sequential())
