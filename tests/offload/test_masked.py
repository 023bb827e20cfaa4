"""Masked products against the same int8 weights unmasked, and every way to misuse a pad."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from sealtune.errors import ModelError, OffloadError, PadReuseError
from sealtune.job.plan import LinearGroup
from sealtune.offload.enclave_pads import EnclavePads
from sealtune.offload.frozen import FrozenGroup
from sealtune.offload.in_process import InProcess
from sealtune.offload.masked import GroupChannel, Link
from sealtune.offload.pads import Pad, PadKey, PadStream
from sealtune.offload.session import OffloadSession
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


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the pads that were used, in order."""
    found: list[int] = []
    spend = PadStream.spend

    def record(stream: PadStream, index: int) -> None:
        found.append(index)
        spend(stream, index)

    monkeypatch.setattr(PadStream, "spend", record)
    return found


def test_every_call_has_a_pad_of_its_own(setup: Setup, spent: list[int]) -> None:
    """Whatever its size, with gradients or without."""
    _, model = installed(setup)
    for rows in (6, 6, 2, 9):
        x = torch.randn(rows, INNER, requires_grad=True)
        with torch.no_grad():
            assert relative(model(x), setup.reference(x)) < 1e-4
        model(x).sum().backward()
    assert len(spent) == len(set(spent)) == 4 * (2 + 2 + 2)


def test_a_recomputation_gives_the_same_gradient_with_fresh_pads(
    setup: Setup, spent: list[int]
) -> None:
    """Activation checkpointing: three calls of a layer in a step, each masked by itself."""
    x = torch.randn(2, 3, INNER, requires_grad=True)
    found = []
    for model in (Toy(), Recomputed()):
        _, masked = installed(setup, model)
        found.append(torch.autograd.grad(masked(x).square().mean(), x)[0])
        spent.append(-1)
    assert torch.equal(*found)
    calls = spent[spent.index(-1) + 1 : -1]
    assert len(calls) == len(set(calls)) == 6


def test_a_recomputation_may_end_within_a_group(setup: Setup) -> None:
    """It stops when all that was saved is there again; what it left does not hinder others."""
    _, model = installed(setup)
    first, second = torch.randn(2, INNER), torch.randn(2, INNER)
    model.q(first)
    found = model.q(second), model.k(second)
    expected = setup.reference.q(second), setup.reference.k(second)
    assert all(relative(f, e) < 1e-4 for f, e in zip(found, expected, strict=True))


def test_passes_may_overlap(setup: Setup) -> None:
    """Two forward passes and an evaluation before the backward pass of the first."""
    _, model = installed(setup)
    gradients = []
    for either in (model, setup.reference):
        x = torch.linspace(-1, 1, 6 * INNER).view(6, INNER).requires_grad_()
        first, second = either(x), either(x[:4])
        with torch.no_grad():
            either(x[:2])
        gradients.append(torch.autograd.grad(first.square().sum() + second.sum(), x)[0])
    assert relative(*gradients) < 2e-4


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 70),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.integers(0, 2**31),
)
def test_products_are_those_of_float64_up_to_the_rounding_of_codes(
    rows: int,
    inner: int,
    outer: list[int],
    backward: bool,
    masked: bool,
    dtype: torch.dtype,
    seed: int,
) -> None:
    """Every tail, both directions: a code is off by half a step at most."""
    torch.manual_seed(seed)
    frozen = make_group(inner, outer)
    assert frozen.weight is not None
    spec, exact = frozen.spec, frozen.weight.double() * frozen.scale.double()[:, None]
    matrix = exact if backward else exact.t()
    near = InProcess(Exact(frozen.weight), (spec,))
    seconds = dict.fromkeys(("accelerator", "pads", "passes"), 0.0)
    pads = EnclavePads(PadStream("test"), {spec.name: frozen}, 0, seconds) if masked else None
    channel = GroupChannel(frozen, Link(near, pads, seconds))
    channel.bias = torch.randn(sum(outer))
    x = torch.randn(rows, len(matrix) + 3)[:, : len(matrix)].to(dtype)  # rows at a distance
    found = channel.multiply(x, backward=backward).double()
    expected = x.double() @ matrix + (0 if backward else channel.bias.double())
    scaled = x.double() * frozen.scale.double() if backward else x.double()
    step = scaled.norm(dim=1, keepdim=True) / frozen.budgets[backward].code_norm
    weights = frozen.weight.double() if backward else matrix
    bound = 0.5 * step * weights.abs().sum(0) + 2e-6 * (scaled.abs() @ weights.abs() + 1)
    if dtype == torch.bfloat16:  # is what comes out, too
        bound = bound + 2.0**-8 * expected.abs()
    assert ((found - expected).abs() <= bound).all()


class Exact:
    """Products of one weight in Python's integers."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
        right = self.weight if backward else self.weight.t()
        return (codes.to(torch.int64) @ right.to(torch.int64)).to(torch.int32)  # it wraps

    def prefix(self, input_ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def close(self) -> None: ...


def make_group(inner: int, outer: list[int]) -> FrozenGroup:
    members = tuple(f"layer{i}" for i in range(len(outer)))
    spec = LinearGroup(
        name="layer0", members=members, in_features=inner, out_features=tuple(outer), backward=True
    )
    weight = torch.randint(-128, 128, (sum(outer), inner)).to(torch.int8)
    scale = torch.rand(sum(outer)) * 0.01
    return FrozenGroup.read(spec, scale, iter(weight.split(7)), integrity_bits=40, keep=True)


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


def test_layers_of_a_group_must_share_their_input(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    session = setup.session()
    session.install(model)
    model.q(torch.randn(1, INNER))
    with pytest.raises(OffloadError, match="another way than the slice plan saw"):
        model.k(torch.randn(1, INNER))


def test_an_input_that_was_changed_between_two_layers_is_refused(setup: Setup) -> None:
    """The second layer would get the product of what the input was before."""
    _, model = installed(setup)
    x = torch.randn(1, INNER)
    model.q(x)
    x.mul_(2)
    with pytest.raises(OffloadError, match="another way than the slice plan saw"):
        model.k(x)


def test_a_model_without_a_planned_layer_is_refused(setup: Setup) -> None:
    with pytest.raises(ModelError, match="no module"):
        setup.session().install(torch.nn.Sequential())


class Recorder:
    """The honest engine, which remembers that it was closed."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.closed = setup, 0

    def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
        return self.setup.engine.product(group, codes, backward=backward)

    def close(self) -> None:
        self.closed += 1


def test_a_pad_that_comes_a_second_time_is_refused(setup: Setup) -> None:
    """Whoever hands pads out, before anything is masked with one."""
    stream = PadStream("test")
    key = PadKey(stream, stream.reserve())

    class Again:
        suspect = ""

        def take(self, group: str, rows: int, *, backward: bool) -> Pad:
            return Pad(key, lambda: torch.zeros((rows, 56), dtype=torch.int32))

        def close(self) -> None: ...

    seen: list[str] = []

    class Counting(Recorder):
        def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
            seen.append(group)
            answer = super().product(group, codes, backward=backward)
            mask = stream.mask(key.index, *codes.shape)
            return answer - super().product(group, mask, backward=backward)

    session = setup.session(Counting(setup), pads=Again())
    session.multiply("q", torch.randn(2, INNER))
    with pytest.raises(PadReuseError, match="asked for twice"):
        session.multiply("q", torch.randn(2, INNER))
    assert seen == ["q"]


def test_weights_stay_in_an_enclave_only_for_pads_of_its_own(setup: Setup, tmp_path: Path) -> None:
    class Elsewhere:
        suspect = ""

        def close(self) -> None: ...

    plain = make_setup(tmp_path, "insecure-none")
    sessions = (setup.session(), setup.session(pads=Elsewhere()), plain.session())
    kept = [
        {shared.channel.frozen.weight is not None for shared in session._shared.values()}
        for session in sessions
    ]
    assert kept == [{True}, {False}, {False}]


def test_a_new_pass_forgets_what_the_last_one_left(setup: Setup) -> None:
    model = Toy().requires_grad_(False)
    session = setup.session()
    session.install(model)
    model.q(torch.randn(5, INNER))  # and no more: the step was interrupted
    x = torch.randn(6, INNER)
    assert relative(model(x), setup.reference(x)) < 1e-4


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
    for room in ("offload.masked", "accelerator.engine"):
        monkeypatch.setattr(f"sealtune.{room}.perf_counter", lambda: next(clock))
    before = setup.engine.calls, setup.engine.busy_seconds
    session = setup.session()
    assert session.seconds == {"accelerator": 0.0, "pads": 0.0, "passes": 0.0}
    session.multiply("q", torch.randn(2, INNER))
    session.multiply("o", torch.randn(2, 40))
    # to hand over and to wait, and the engine in this process looks twice each time
    assert session.seconds == {"accelerator": 2 * 4.0, "pads": 2 * 1.0, "passes": 2 * 2.0}
    assert (setup.engine.calls, setup.engine.busy_seconds) == (before[0] + 2, before[1] + 2.0)
