"""The benchmark of rounds across hosts: what its numbers are made of."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import deploy
import deploy_parties
from deploy_gate import Gate, Order
from sealtune.frames import Frame


def figures(seconds: list[float], sites: float, server: float) -> deploy.Figures:
    return deploy.Figures(seconds, [sites], [server])


def test_ratios_are_of_medians_and_of_all_bytes() -> None:
    found = {
        "plain": {
            "idle": {
                "flower": figures([6.0, 6.2, 9.0], 90, 70),
                "sealtune": figures([0.1, 0.3, 0.2], 60, 3),
            },
            "adapter": {
                "flower": figures([6.0, 8.0, 7.0], 600, 400),
                "sealtune": figures([1.4, 0.7, 0.1], 630, 420),
            },
        }
    }
    result = deploy.summarise(found)
    assert result["round_seconds_ratio"] == {"plain": 0.1}
    assert result["bytes_ratio"] == {"plain": 1.05}
    assert result["sites_bytes_ratio"] == {"plain": 1.05}
    assert result["idle_round_seconds"] == {"plain": 0.2}
    assert result["flower_idle_round_seconds"] == {"plain": 6.2}


def test_an_order_is_done_once_and_reports_its_rounds(tmp_path: Path) -> None:
    asked = Order(rounds=2, values=3, arrays=1, work=0.5)

    def serve() -> None:
        for order, done in Gate(tmp_path).orders():
            done([order.work] * order.rounds)
            if order.values == 4:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    gate = Gate(tmp_path)
    assert gate.order(asked, lambda: None, 60) == [0.5, 0.5]
    assert gate.order(Order(1, 4, 1, 0.0), lambda: None, 60) == [0.0]
    thread.join(60)


def test_a_program_that_ended_ends_the_wait(tmp_path: Path) -> None:
    def dead() -> None:
        raise SystemExit("it ended")

    with pytest.raises(SystemExit, match="it ended"):
        Gate(tmp_path).order(Order(1, 1, 1, 0.0), dead, 60)


def test_both_sides_move_the_same_numbers() -> None:
    """A site's answer is another adapter of the same length, and no two sites' are alike."""
    adapter = np.arange(5, dtype=np.float32)
    answers = [
        deploy_parties.Worker(1 + number).answer(Frame("train", {"work": 0.0}, adapter.tobytes()))
        for number in range(len(deploy_parties.SITES))
    ]
    assert {len(answer.body) for answer in answers} == {adapter.nbytes}
    assert len({bytes(answer.body) for answer in answers}) == len(answers)
