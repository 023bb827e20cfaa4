"""Masked products against the same int8 weights unmasked, and every way to misuse a pad."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from sealtune.errors import IntegrityError, ModelError, OffloadError, PadReuseError
from sealtune.offload.codes import Budget
from sealtune.offload.frozen import FrozenGroup
from sealtune.offload.pads import PadStream
from sealtune.offload.session import OffloadSession
from tests.offload.layers import GROUPS, INNER, Setup, Toy, make_setup


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
        masked = model(x)
        (gradient,) = torch.autograd.grad(masked.square().mean(), x)
    forward_error, backward_error = relative(masked, out), relative(gradient, expected)
    assert forward_error < 1e-4, f"forward differs by {forward_error:.2e}"
    assert backward_error < 2e-4, f"gradient differs by {backward_error:.2e}"


class Recomputed(Toy):
    """Computes its forward pass again for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)  # type: ignore[no-any-return]


def installed(setup: Setup, model: Toy | None = None) -> tuple[OffloadSession, Toy]:
    session, model = setup.session(), (model or Toy()).requires_grad_(False)
    session.install(model)
    return session, model


def made(session: OffloadSession) -> dict[tuple[str, bool], int]:
    """Pads that wait for a call."""
    return {
        (name, way): len(shared.channel._ready[way])
        for name, shared in session._shared.items()
        for way in (False, True)
    }


def test_every_forward_pass_has_pads_of_its_own(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its size, with gradients or without: no pad is taken twice, none is left over."""
    taken: list[int] = []
    spend = PadStream.spend

    def record(stream: PadStream, index: int) -> None:
        taken.append(index)
        spend(stream, index)

    monkeypatch.setattr(PadStream, "spend", record)
    session, model = installed(setup)
    for rows in (6, 6, 2, 9):
        x = torch.randn(rows, INNER, requires_grad=True)
        with torch.no_grad():
            assert relative(model(x), setup.reference(x)) < 1e-4
        assert not any(made(session).values())  # and none was made for a backward pass
        model(x).sum().backward()
        assert not any(made(session).values())
    assert len(taken) == len(set(taken)) == 4 * (2 + 2 + 2)


def test_recomputation_is_refused(setup: Setup) -> None:
    """Activation checkpointing would need the forward pads a second time."""
    _, model = installed(setup, Recomputed())
    result = model(torch.randn(2, 3, INNER, requires_grad=True))
    with pytest.raises(PadReuseError, match="forward; refusing to reuse"):
        result.sum().backward()


@pytest.mark.parametrize("rows", [6, 5])
def test_two_forward_passes_before_a_backward_pass_are_refused(setup: Setup, rows: int) -> None:
    _, model = installed(setup)
    first = model(torch.randn(6, INNER, requires_grad=True))
    second = model(torch.randn(rows, INNER, requires_grad=True))
    with pytest.raises(OffloadError, match=r"backward; refusing to reuse|covers . rows, not"):
        (first.sum() + second.sum()).backward()


def test_a_pass_whose_pads_are_gone_is_refused(setup: Setup) -> None:
    """An evaluation between forward and backward pass."""
    _, model = installed(setup)
    first = model(torch.randn(6, INNER, requires_grad=True))
    with torch.no_grad():
        model(torch.randn(6, INNER))
    with pytest.raises(PadReuseError, match="backward; refusing to reuse"):
        first.sum().backward()


def test_a_layer_outside_a_pass_finds_no_pad(setup: Setup) -> None:
    _, model = installed(setup)
    with pytest.raises(PadReuseError, match="refusing to reuse"):
        model.q(torch.randn(2, 3, INNER))


def test_a_pad_of_another_size_is_refused(setup: Setup) -> None:
    session, model = installed(setup)
    session.begin_step(5, backward=False)
    with pytest.raises(OffloadError, match="covers 5 rows, not 6"):
        model.q(torch.randn(2, 3, INNER))


@pytest.mark.parametrize("hang", ["hook", "child"])
def test_what_hangs_at_a_frozen_layer_is_not_lost(setup: Setup, hang: str) -> None:
    """A tuner's delta there would vanish with the layer, and nobody would notice."""
    model = Toy().requires_grad_(False)
    if hang == "hook":
        model.o.register_forward_hook(lambda _module, _args, output: 2 * output)
    else:
        model.o.add_module("delta", torch.nn.Linear(1, 1))
    with pytest.raises(ModelError, match="something hangs at o that"):
        setup.session().install(model)


def test_a_pass_without_tokens_is_refused(setup: Setup) -> None:
    _, model = installed(setup)
    with pytest.raises(OffloadError, match="without input_ids or inputs_embeds"):
        model(x=None)


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


class Recorder:
    """The honest engine, which remembers that it was closed."""

    def __init__(self, setup: Setup, *, lie: int = 0) -> None:
        self.setup, self.lie, self.closed = setup, lie, 0

    def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
        result = self.setup.engine.product(group, codes, backward=backward)
        result[0, 0] ^= self.lie
        return result

    def close(self) -> None:
        self.closed += 1


def test_the_range_is_checked_after_the_product(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of 2^31 passes one check in two: this one is not left to chance."""
    monkeypatch.setattr("sealtune.offload.masked.freivalds.check_product", lambda *_, **__: None)
    session = setup.session(Recorder(setup, lie=-(2**31)))
    session.begin_step(2, backward=False)
    with pytest.raises(IntegrityError, match="q forward is out of range"):
        session.multiply("q", torch.randn(2, INNER))


def test_a_pad_that_is_in_the_queue_twice_is_used_once(setup: Setup) -> None:
    session = setup.session()
    session.begin_step(2, backward=False)
    ready = session._shared["q"].channel._ready[False]
    ready.append(ready[0])
    session.multiply("q", torch.randn(2, INNER))
    with pytest.raises(PadReuseError, match="asked for twice"):
        session.multiply("q", torch.randn(2, INNER))


def test_a_new_step_throws_away_what_the_last_one_left(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    session = setup.session()
    session.install(model)
    session.begin_step(5, backward=True)
    model.q(torch.randn(5, INNER))  # and no more: the step was interrupted
    x = torch.randn(6, INNER)
    assert relative(model(x), setup.reference(x)) < 1e-4


def test_one_layer_cannot_be_called_twice_with_an_input(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    session = setup.session()
    session.install(model)
    session.begin_step(1, backward=False)
    x = torch.randn(1, INNER)
    model.q(x)
    with pytest.raises(OffloadError, match="another way than the slice plan saw"):
        model.q(x)
    with pytest.raises(PadReuseError, match="no pad is left"):
        model.k(x)  # nothing of the product is served any more


@pytest.mark.parametrize("backward", [False, True])
def test_pads_are_made_for_the_calls_that_will_come(setup: Setup, backward: bool) -> None:
    first, second = setup.plan.groups
    plan = setup.plan.model_copy(
        update={"groups": (first, second.model_copy(update={"backward": False}))}
    )
    session = Setup(plan, setup.reference, setup.engine).session()
    session.begin_step(3, backward=backward)
    assert made(session) == {
        ("q", False): 1, ("q", True): int(backward), ("o", False): 1, ("o", True): 0
    }  # fmt: skip


def test_leaving_a_session_closes_the_accelerator(setup: Setup) -> None:
    recorder = Recorder(setup)
    with setup.session(recorder):
        assert recorder.closed == 0
    assert recorder.closed == 1


def test_masked_layers_put_nothing_into_a_state(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    setup.session().install(model)
    assert not model.state_dict()


def test_seconds_are_those_of_the_clock(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by one each time it is looked at."""
    clock = itertools.count(100.0)
    for room in ("offload.masked", "offload.session", "accelerator.engine"):
        monkeypatch.setattr(f"sealtune.{room}.perf_counter", lambda: next(clock))
    before = setup.engine.calls, setup.engine.busy_seconds
    session = setup.session()
    session.begin_step(2, backward=True)
    assert session.seconds == {"pads": 1.0, "accelerator": 0.0}
    session.multiply("q", torch.randn(2, INNER))
    session.multiply("o", torch.randn(2, 40))
    assert session.seconds == {"pads": 1.0, "accelerator": 6.0}  # the engine looks twice each time
    assert (setup.engine.calls, setup.engine.busy_seconds) == (before[0] + 2, before[1] + 2.0)


def test_budgets_follow_from_rows_forward_and_columns_backward() -> None:
    weight = torch.tensor([[100, 0, 0], [100, 3, 4]], dtype=torch.int8)
    frozen = FrozenGroup(GROUPS[0], weight, torch.ones(2))
    assert frozen.budgets[False].code_norm == Budget(math.sqrt(10_025), 3).code_norm
    assert frozen.budgets[True].code_norm == Budget(math.sqrt(20_000), 2).code_norm


def test_a_missing_backbone_is_named(tmp_path: Path) -> None:
    fresh = make_setup(tmp_path)
    Path(fresh.plan.backbone.path).unlink()
    with pytest.raises(ModelError, match=r"cannot read q\.weight from the int8 backbone"):
        fresh.session()
