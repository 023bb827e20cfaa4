"""What comes next is what came next before."""

from __future__ import annotations

import pytest

from sealtune.offload import call_order
from sealtune.offload.call_order import Call, CallOrder

BLOCKS, LAYERS = 6, ("qkv", "o", "up", "down")


def forward(rows: int) -> list[Call]:
    return [Call(f"{b}.{one}", False, rows) for b in range(BLOCKS) for one in LAYERS]


def training(rows: int) -> list[Call]:
    return forward(rows) + [Call(one.group, True, rows) for one in reversed(forward(rows))]


def recomputing(rows: int) -> list[Call]:
    """Each block's forward calls once more before its backward ones."""
    step, there = forward(rows), forward(rows)
    for block in reversed(range(BLOCKS)):
        own = there[4 * block : 4 * block + 4]
        step += own + [Call(one.group, True, rows) for one in reversed(own)]
    return step


def foretold(calls: list[Call], number: int) -> tuple[int, int]:
    """How many of the calls were expected ``number`` calls ahead, and how many wrongly."""
    order, right, wrong = CallOrder(), 0, 0
    for at, call in enumerate(calls):
        order.add(call)
        said = order.ahead(number)
        if said is not None and at + 1 + number < len(calls):
            right, wrong = (
                (right + 1, wrong) if said == calls[at + 1 + number] else (right, wrong + 1)
            )
    return right, wrong


def test_a_second_step_is_foretold_and_none_beyond() -> None:
    for kind in (training, recomputing):
        step = kind(8)
        assert foretold(step * 6, len(step)) == (0, 0)
        for number in (0, 5, len(step) - 1):
            right, wrong = foretold(step * 6, number)
            assert wrong <= call_order.CONTEXT
            assert right >= len(step) * 5 - number - 3 * call_order.CONTEXT


def test_nothing_is_said_in_a_first_step() -> None:
    assert foretold(training(8), 0) == (0, 0)


def test_where_rows_change_nothing_is_said_beyond() -> None:
    calls = [call for rows in (8, 5, 9, 7, 6) for call in training(rows)]
    right, wrong = foretold(calls, 3)
    assert wrong == 0
    assert right > 3 * (len(training(1)) - 16)


def test_an_evaluation_between_is_an_order_of_its_own() -> None:
    cycle = training(8) * 3 + forward(8) * 2
    right, wrong = foretold(cycle * 5, 0)
    assert wrong <= 4 * 5  # where one turns into the other
    assert right > 0.9 * len(cycle) * 4


def test_a_long_run_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_order, "_KEPT", 4 * len(training(8)))
    order = CallOrder()
    for _ in range(11):
        for call in training(8):
            order.add(call)
        assert len(order._calls) <= call_order._KEPT
    assert order.ahead(0) == training(8)[0]
