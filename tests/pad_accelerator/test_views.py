"""What each party of a step with a pad accelerator sees: alone, noise; two together, everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sealtune.errors import IntegrityError
from sealtune.frames import Frame
from sealtune.offload import wire
from sealtune.offload.second import SecondSource
from sealtune.pad_accelerator import server as pad_server
from sealtune.pad_accelerator.line import Asked
from tests.accelerator.test_wiretap import Proxy
from tests.offload.layers import INNER, Setup, Toy, make_setup
from tests.offload.test_wiretap import Wiretap, finds_canary, uniformity
from tests.pad_accelerator.pair import connect, serving

TOKENS = 300


@dataclass
class Seen:
    """Views of a training step.

    Attributes:
        accelerator: codes, in the order of calls.
        asked, answered: frames between enclave and pad accelerator.
        source: the enclave's; its key streams are what the pad accelerator knows.
        canary: a row that came again and again.
        gradient: of the input.
    """

    accelerator: list[torch.Tensor]
    asked: list[Frame]
    answered: list[Frame]
    source: SecondSource
    canary: torch.Tensor
    gradient: torch.Tensor


def step(setup: Setup, seed: int = 0) -> Seen:
    """One training step over tokens among which one canary row comes again and again."""
    torch.manual_seed(seed)
    canary = torch.randn(INNER)
    x = torch.randn(1, TOKENS, INNER)
    x[0, ::7] = canary
    x.requires_grad_(True)
    tap = Wiretap(setup.engine)
    with serving(setup) as server:
        proxy = Proxy(server.port)
        source = connect(proxy.port)
        model = Toy().requires_grad_(False)
        with setup.session(tap, pads=source) as session:
            session.install(model)
            model(x).square().sum().backward()
    assert x.grad is not None
    asked, answered = proxy.frames(), proxy.frames(back=True)
    return Seen(tap.seen, asked, answered, source, canary, x.grad)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def seen(setup: Setup) -> Seen:
    return step(setup)


def pads(seen: Seen) -> list[torch.Tensor]:
    """What crossed as products."""
    bodies = [bytearray(frame.body) for frame in seen.answered if frame.kind == "pad"]
    return [torch.frombuffer(body, dtype=torch.int32).view(TOKENS, -1) for body in bodies]


def test_the_accelerator_alone_sees_noise(seen: Seen) -> None:
    assert len(seen.accelerator) == 4
    assert all(uniformity(codes) > 1e-6 for codes in seen.accelerator)
    assert not finds_canary(seen.accelerator, seen.canary)


def test_the_wire_to_the_pad_accelerator_carries_noise(setup: Setup, seen: Seen) -> None:
    crossed = pads(seen)
    assert len(crossed) == 4
    assert all(uniformity(product) > 1e-6 for product in crossed)
    # the same test finds what is not noise: a bare product of small numbers
    small = torch.randint(-99, 99, (TOKENS, INNER)).to(torch.int32)
    assert uniformity(setup.engine.product("q", small, backward=False)) < 1e-12


def test_nothing_on_that_wire_comes_from_the_data(setup: Setup, seen: Seen) -> None:
    """But for the sealed seed, what the enclave says is the same for any text of this shape."""
    other = step(setup, seed=1)
    assert not torch.equal(other.gradient, seen.gradient)
    said = [[(f.kind, f.meta) for f in one.asked] for one in (seen, other)]
    assert said[0] == said[1]
    assert {f.kind for f in seen.asked if len(f.body)} == {"open"}


def test_accelerator_and_wire_together_see_noise(seen: Seen) -> None:
    """Whoever runs the accelerator and reads the enclave's other line, but has no seed."""
    for codes, product in zip(seen.accelerator, pads(seen), strict=True):
        columns = min(codes.shape[1], product.shape[1])
        for mixed in (
            codes[:, :columns] - product[:, :columns],
            codes[:, :columns] + product[:, :columns],
        ):
            assert uniformity(mixed) > 1e-6


def test_both_accelerators_together_see_everything(seen: Seen) -> None:
    """The limit: they must not collude. The seed takes the mask off what the accelerator got."""
    codes = seen.accelerator[0] - seen.source.streams.mask.mask(0, TOKENS, INNER)
    assert uniformity(codes) < 1e-12
    assert finds_canary([codes], seen.canary)


def test_a_step_is_the_one_with_pads_from_the_enclave(setup: Setup, seen: Seen) -> None:
    torch.manual_seed(0)
    canary = torch.randn(INNER)
    x = torch.randn(1, TOKENS, INNER)
    x[0, ::7] = canary
    x.requires_grad_(True)
    model = Toy().requires_grad_(False)
    with setup.session() as session:
        session.install(model)
        model(x).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, seen.gradient)


def test_the_enclave_holds_no_weights_and_multiplies_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(setup) as server, setup.session(pads=connect(server.port)) as session:
        kept = [shared.channel.frozen.weight for shared in session._shared.values()]
        assert kept == [None, None]
    with setup.session() as session:
        assert all(s.channel.frozen.weight is not None for s in session._shared.values())


Made = Callable[[pad_server._Connection, Asked], Frame]


def lying(monkeypatch: pytest.MonkeyPatch, lie: Callable[[Made], Made]) -> None:
    """Let the pad accelerator make its answers in another way."""
    monkeypatch.setattr(pad_server._Connection, "_pad", lie(pad_server._Connection._pad))


def run(setup: Setup, multiplier: object | None = None) -> None:
    with serving(setup) as server:
        source = connect(server.port)
        model = Toy().requires_grad_(False)
        with setup.session(multiplier, pads=source) as session:
            session.install(model)
            for _ in range(3):
                model(torch.randn(1, 9, INNER, requires_grad=True)).square().sum().backward()


BOTH = r"the accelerator's .*, or the pad accelerator's for its mask,"


def test_a_pad_accelerator_that_lies_is_caught(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(honest: Made) -> Made:
        def made(connection: pad_server._Connection, one: Asked) -> Frame:
            answer = honest(connection, one)
            product = wire.codes_from_bytes(answer.body, one.rows, one.outer)
            product[-1, -1] += one.index == 9
            return Frame("pad", answer.meta, wire.tensor_bytes(product))

        return made

    run(setup)
    lying(monkeypatch, lie)
    with pytest.raises(IntegrityError, match=BOTH):
        run(setup)


def test_an_older_product_under_a_new_number_is_caught(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replay(honest: Made) -> Made:
        kept: dict[tuple[str, bool], Frame] = {}

        def made(connection: pad_server._Connection, one: Asked) -> Frame:
            first = kept.setdefault((one.group, one.backward), honest(connection, one))
            return Frame("pad", {"index": one.index}, first.body)

        return made

    lying(monkeypatch, replay)
    with pytest.raises(IntegrityError, match=BOTH):
        run(setup)


def test_an_accelerator_that_lies_is_caught(setup: Setup) -> None:
    class Liar:
        calls = 0

        def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
            self.calls += 1
            result = setup.engine.product(group, codes, backward=backward)
            result[0, 0] += self.calls == 7
            return result

        def close(self) -> None: ...

    with pytest.raises(IntegrityError, match=BOTH):
        run(setup, Liar())


def test_a_pad_accelerator_of_other_weights_is_caught(setup: Setup, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = make_setup(tmp_path)
    other.engine._weights["q"] = other.engine._weights["q"].roll(1, 0)
    with serving(other) as server:
        model = Toy().requires_grad_(False)
        with setup.session(pads=connect(server.port)) as session:
            session.install(model)
            with pytest.raises(IntegrityError, match=BOTH):
                model(torch.randn(1, 9, INNER))
