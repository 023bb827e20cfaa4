"""A lying accelerator is caught, whatever it answers and however long it waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealtune.errors import IntegrityError
from sealtune.offload.codes import RESULT_LIMIT
from sealtune.offload.session import OffloadSession
from tests.offload.layers import HIDDEN, INNER, Setup, Toy, make_setup

Lie = Callable[["Liar", torch.Tensor, torch.Tensor, bool], torch.Tensor]


class Liar:
    """Answers as ``lie(itself, codes, honest answer, backward)`` says, from some call on."""

    def __init__(self, setup: Setup, lie: Lie, honest: int = 0) -> None:
        self.setup, self.lie, self.honest = setup, lie, honest
        self.calls = 0
        self.answers: list[torch.Tensor] = []  # all honest ones

    def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
        answer = self.setup.engine.product(group, codes, backward=backward)
        self.calls += 1
        given = answer if self.calls <= self.honest else self.lie(self, codes, answer, backward)
        self.answers.append(answer)
        return given

    def prefix(self, input_ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def close(self) -> None: ...


@pytest.fixture(scope="module", params=["adapter+data", "insecure-none"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Masked, and in the plain: the check does not live on the masks."""
    return make_setup(tmp_path_factory.mktemp("backbone"), request.param)


def swap_rows(_: Liar, __: torch.Tensor, answer: torch.Tensor, ___: bool) -> torch.Tensor:
    return answer[[1, 0, *range(2, len(answer))]]


def swap_columns(_: Liar, __: torch.Tensor, answer: torch.Tensor, ___: bool) -> torch.Tensor:
    return answer[:, [1, 0, *range(2, answer.shape[1])]]


def replay(liar: Liar, _: torch.Tensor, __: torch.Tensor, ___: bool) -> torch.Tensor:
    return liar.answers[-1]


def zeros(_: Liar, __: torch.Tensor, answer: torch.Tensor, ___: bool) -> torch.Tensor:
    return torch.zeros_like(answer)


def half_a_ring(_: Liar, __: torch.Tensor, answer: torch.Tensor, ___: bool) -> torch.Tensor:
    return answer ^ -(2**31)


def one_and_back(_: Liar, __: torch.Tensor, answer: torch.Tensor, ___: bool) -> torch.Tensor:
    """Sums of rows and columns stay what they are."""
    lie = answer.clone()
    lie[0, 0] += 1
    lie[0, 1] -= 1
    lie[1, 0] -= 1
    lie[1, 1] += 1
    return lie


def of_other_weights(
    liar: Liar, codes: torch.Tensor, answer: torch.Tensor, backward: bool
) -> torch.Tensor:
    """One weight is a step larger: a model with a backdoor."""
    lie = answer.clone()
    lie[:, 3] += codes[:, 2]
    return lie


def along_all_it_saw(liar: Liar, _: torch.Tensor, answer: torch.Tensor, __: bool) -> torch.Tensor:
    """An error that follows from every answer that was accepted."""
    error = sum(a.to(torch.int64) for a in liar.answers) % 1001 - 500  # type: ignore[union-attr]
    assert bool(error.any())
    return answer + error.to(torch.int32)


LIES = [
    swap_rows,
    swap_columns,
    replay,
    zeros,
    half_a_ring,
    one_and_back,
    of_other_weights,
    along_all_it_saw,
]


def session_of(setup: Setup, lie: Lie, honest: int = 0) -> tuple[OffloadSession, Liar]:
    liar = Liar(setup, lie, honest)
    return setup.session(liar), liar


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_of_any_kind_is_caught(setup: Setup, lie: Lie, backward: bool) -> None:
    """Even if the same vectors have checked five right answers before."""
    session, _ = session_of(setup, lie, honest=5)
    torch.manual_seed(0)
    width = HIDDEN + 16 if backward else INNER
    for _ in range(5):
        session.multiply("q", torch.randn(3, width), backward=backward)
    with pytest.raises(IntegrityError, match="q backward is" if backward else "q forward is"):
        session.multiply("q", torch.randn(3, width), backward=backward)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2), st.integers(0, HIDDEN - 1), st.integers(1, 2**32 - 1), st.booleans())
def test_one_changed_entry_is_caught_whatever_the_error(
    setup: Setup, row: int, col: int, error: int, everywhere: bool
) -> None:
    def lie(_: Liar, __: torch.Tensor, answer: torch.Tensor, ___: bool) -> torch.Tensor:
        wide = answer.to(torch.int64)
        wide[slice(None) if everywhere else row, col] += error
        return wide.to(torch.int32)  # it wraps

    session, _ = session_of(setup, lie)
    with pytest.raises(IntegrityError, match="q forward is"):
        session.multiply("q", torch.randn(3, INNER))


@pytest.mark.parametrize("error", [2**31, -(2**31), 2**30, 2 * RESULT_LIMIT - 1])
def test_what_leaves_the_range_is_caught_by_the_range(setup: Setup, error: int) -> None:
    """In a row of zeros the error is all there is: 2^31 - 1, which is p, would be 0 mod p."""

    def lie(_: Liar, __: torch.Tensor, answer: torch.Tensor, ___: bool) -> torch.Tensor:
        wide = answer.to(torch.int64)
        wide[0, 0] += error
        return wide.to(torch.int32)

    session, _ = session_of(setup, lie)
    with pytest.raises(IntegrityError, match="q forward is out of range"):
        session.multiply("q", torch.zeros(3, INNER))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("bit", [0, 7, 8, 30, 31])
def test_a_lie_ends_a_training_step(setup: Setup, backward: bool, bit: int) -> None:
    def lie(_: Liar, __: torch.Tensor, answer: torch.Tensor, way: bool) -> torch.Tensor:
        if way == backward:
            answer[0, -1] ^= -(2**31) if bit == 31 else 1 << bit
        return answer

    session, _ = session_of(setup, lie)
    model = Toy().requires_grad_(False)
    session.install(model)
    x = torch.randn(2, 3, INNER, requires_grad=True)
    with pytest.raises(IntegrityError, match="backward" if backward else "forward"):
        model(x).sum().backward()


def test_no_answer_is_taken_after_a_lie(setup: Setup) -> None:
    """Or each lie that was caught would be a guess at the vectors: the proof ends with the first.

    Neither another layer nor the honest truth is asked for again.
    """

    def lie(liar: Liar, _: torch.Tensor, answer: torch.Tensor, __: bool) -> torch.Tensor:
        return answer + 1 if liar.calls == 2 else answer

    session, liar = session_of(setup, lie)
    session.multiply("q", torch.randn(3, INNER))
    with pytest.raises(IntegrityError, match="q forward is wrong"):
        session.multiply("q", torch.randn(3, INNER))
    for group, width in (("q", INNER), ("o", HIDDEN)):
        with pytest.raises(IntegrityError, match="q forward is wrong"):
            session.multiply(group, torch.randn(3, width))
    assert liar.calls == 2
