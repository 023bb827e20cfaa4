"""Pads ahead of time: for the calls that will come, within a budget, and never a wrong number."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from sealtune.errors import OffloadError, PadReuseError
from sealtune.offload import enclave_pads, ring
from sealtune.offload.enclave_pads import EnclavePads
from sealtune.offload.pads import Pad, PadStream
from tests.offload.layers import INNER, Setup, Toy, make_setup

STEP = [("q", False), ("o", False), ("o", True), ("q", True)]
BYTES = {("q", False): 56 * 4, ("o", False): 24 * 4, ("o", True): 40 * 4, ("q", True): 24 * 4}
WHOLE = sum(BYTES.values())  # of a step's products, for each row


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("backbone"))


Make = Callable[[int], EnclavePads]


@pytest.fixture
def make(setup: Setup) -> Iterator[Make]:
    """A source with a budget of so many bytes."""
    made: list[EnclavePads] = []

    def source(budget: int) -> EnclavePads:
        own = setup.session()._link.pads
        assert isinstance(own, EnclavePads)
        made.append(EnclavePads(PadStream("test"), own._frozen, budget, {"pads": 0.0}))
        return made[-1]

    yield source
    for one in made:
        one.close()


def take_step(source: EnclavePads, rows: int) -> list[Pad]:
    return [source.take(group, rows, backward=backward) for group, backward in STEP]


def rest(source: EnclavePads) -> dict[tuple[str, bool], list[int]]:
    """Let it rest until its thread has nothing left to make; rows of what it holds then."""
    source.rest(wait=True)
    return {way: [len(m.product) for m in made] for way, made in source._ready.items() if len(made)}


def check(source: EnclavePads, pad: Pad, way: tuple[str, bool], rows: int) -> None:
    """Its product is that of its mask."""
    group, backward = way
    weight = source._frozen[group].weight
    assert weight is not None
    matrix = weight if backward else weight.t()
    mask = pad.key.stream.mask(pad.key.index, rows, len(matrix))
    assert torch.equal(pad.product(), ring.product(mask, matrix))
    pad.key.spend()


def test_without_a_budget_each_product_is_made_when_it_is_asked_for(make: Make) -> None:
    source = make(0)
    for rows in (1, 7):
        for way, pad in zip(STEP, take_step(source, rows), strict=True):
            check(source, pad, way, rows)
        assert rest(source) == {}
    assert source._thread is None


def test_pads_are_made_in_the_order_of_the_last_training_as_far_as_the_budget_reaches(
    make: Make,
) -> None:
    source = make(8 * WHOLE + 8 * BYTES["q", False] + 3)
    assert rest(source) == {}  # nothing is known yet
    for _ in range(3):
        take_step(source, 8)
    assert rest(source) == {way: [8, 8] if way == ("q", False) else [8] for way in STEP}
    indices = {made.key.index for made in source._ready["q", False]}
    first = source.take("q", 8, backward=False)
    assert first.key.index in indices
    check(source, first, ("q", False), 8)


@pytest.mark.parametrize("budget", [0, 1, 4 * 224 - 1, 4 * 224, 2000, 4 * WHOLE, 9 * WHOLE + 7])
def test_no_more_is_held_than_the_budget(make: Make, budget: int) -> None:
    """And one pad more would not fit."""
    source = make(budget)
    for _ in range(3):
        take_step(source, 4)
    held = [way for way, rows in rest(source).items() for _ in rows]
    size = 4 * sum(BYTES[way] for way in held)
    following = (STEP * 3)[len(held)]
    assert size <= budget < size + 4 * BYTES[following]


def test_one_pad_serves_a_call_of_fewer_rows_and_none_of_more(make: Make) -> None:
    source = make(9 * WHOLE)
    take_step(source, 4)
    take_step(source, 9)
    assert rest(source) == {way: [9] for way in STEP}  # as many as the widest call had
    held = {made.key.index for made in source._ready["q", False]}
    wider = source.take("q", 10, backward=False)
    assert wider.key.index not in held
    check(source, wider, ("q", False), 10)
    narrow = source.take("q", 3, backward=False)
    assert narrow.key.index in held
    check(source, narrow, ("q", False), 3)


def test_an_evaluation_between_two_trainings_does_not_change_what_is_learned(make: Make) -> None:
    source = make(4 * WHOLE)
    take_step(source, 4)
    held = rest(source)
    for _ in range(3):
        for group in ("q", "o"):
            source.take(group, 9, backward=False)  # wider than what is held: left for training
    assert rest(source) == held == {way: [4] for way in STEP}


def test_what_is_not_wanted_any_more_is_thrown_away_unused(make: Make) -> None:
    source = make(8 * WHOLE)
    take_step(source, 8)
    rest(source)
    dropped = [made.key for held in source._ready.values() for made in held]
    source.take("q", 9, backward=False)  # a training of other rows: one layer, both ways
    source.take("q", 9, backward=True)
    assert rest(source) == {("q", False): [9], ("q", True): [9]}
    for key in dropped:
        with pytest.raises(PadReuseError):
            key.spend()


def test_no_pad_is_handed_out_twice_while_a_thread_makes_them(make: Make) -> None:
    source = make(5 * WHOLE)
    taken = []
    for _ in range(60):
        source.rest()  # and not waited for
        taken += [pad.key.index for pad in take_step(source, 5)]
    assert len(taken) == len(set(taken)) == 240


def test_a_pad_that_nobody_wants_any_more_when_it_is_made_is_thrown_away(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another training has begun and ended meanwhile, of fewer rows; the budget is for its pads."""
    source = make(2 * WHOLE)
    begun, go_on = threading.Event(), threading.Event()
    product = ring.product

    def slow(*arguments: torch.Tensor) -> torch.Tensor:
        begun.set()
        assert go_on.wait(60)
        return product(*arguments)

    take_step(source, 2)
    monkeypatch.setattr(ring, "product", slow)
    source.rest()
    assert begun.wait(60)
    take_step(source, 1)
    source.rest()
    go_on.set()
    source.rest(wait=True)
    with source._wake:
        rows = {way: [len(one.product) for one in held] for way, held in source._ready.items()}
    assert rows == {way: [1] for way in STEP}


def test_the_thread_stops_when_work_goes_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the pad that it has begun, and leaves the cores to the step."""
    source = make(4 * WHOLE)
    take_step(source, 4)
    begun, go_on, products = threading.Event(), threading.Event(), []
    product = ring.product

    def slow(*given: torch.Tensor) -> torch.Tensor:
        begun.set()
        go_on.wait(60)
        products.append(product(*given))
        return products[-1]

    monkeypatch.setattr(enclave_pads.ring, "product", slow)
    source.rest()
    assert begun.wait(60)
    source.take("o", 4, backward=False)
    go_on.set()
    with source._wake:
        while not any(source._ready.values()):
            source._wake.wait(0.01)
        for _ in range(20):  # time enough to make all that is still wanted
            source._wake.wait(0.01)
    assert len(products) == 1
    rest(source)
    assert len(products) == 4


def test_a_failure_of_the_thread_reaches_the_next_call(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(4 * WHOLE)
    take_step(source, 4)

    def fail(*_: object) -> None:
        raise MemoryError("no room for this")

    monkeypatch.setattr(enclave_pads.ring, "product", fail)
    rest(source)
    with pytest.raises(OffloadError, match="ahead has failed: no room for this") as caught:
        source.take("q", 4, backward=False)
    assert "pad_budget" in str(caught.value.hint)


def test_a_forked_process_gets_nothing_of_what_was_made(make: Make) -> None:
    """Even if a lock was held when it was forked."""
    source = make(4 * WHOLE)
    take_step(source, 4)
    rest(source)
    reader, writer = os.pipe()
    with source._wake:
        child = os.fork()
        if child == 0:
            try:
                source.take("q", 4, backward=False)
                os.write(writer, b"taken")
            except PadReuseError:
                os.write(writer, b"refused")
            finally:
                os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 16) == b"refused"


def test_closing_ends_the_thread_and_throws_everything_away(make: Make) -> None:
    source = make(4 * WHOLE)
    take_step(source, 4)
    rest(source)
    thread = source._thread
    assert thread is not None
    source.close()
    assert not thread.is_alive()
    assert not any(source._ready.values())


def train(setup: Setup, budget: int) -> tuple[list[float], list[torch.Tensor], int]:
    """Losses and gradients of rounds with rests between, and how many pads were made ahead."""
    session = setup.session()
    source = session._link.pads
    assert isinstance(source, EnclavePads)
    source._budget = budget
    model = Toy().requires_grad_(False)
    session.install(model)
    generator = torch.Generator().manual_seed(0)
    losses, gradients, ahead = [], [], 0
    for _ in range(4):
        for rows in (5, 3):
            x = torch.randn(rows, INNER, generator=generator).requires_grad_()
            loss = model(x).square().mean()
            losses.append(float(loss.detach()))
            gradients.append(torch.autograd.grad(loss, x)[0])
        ahead += sum(map(len, rest(source).values()))
    session.close()
    return losses, gradients, ahead


def test_no_number_depends_on_when_a_pad_was_made(setup: Setup) -> None:
    inline, some, all_ahead = (train(setup, budget) for budget in (0, 5 * 400, 10 * WHOLE))
    assert inline[2] == 0 < some[2] < all_ahead[2] == 4 * 8
    for other in (some, all_ahead):
        assert inline[0] == other[0]
        assert all(map(torch.equal, inline[1], other[1]))
