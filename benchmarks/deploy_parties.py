"""Stand-ins for a job's enclaves: real handshakes and sealed messages, no model.

    python deploy_parties.py server GATE SOCKET KEY
    python deploy_parties.py site NAME SOCKET KEY

The server averages float32 adapters, as Flower's FedAvg does; a site returns another adapter.
KEY: file of the key that makes simulated evidence, the same at all of them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from deploy_gate import Gate, Order
from sealtune.attest.platforms.simulated import (
    SimulatedAttester,
    SimulatedVerifier,
    load_key,
    simulated_policy,
)
from sealtune.errors import FrameError
from sealtune.frames import Frame
from sealtune.job.events import Event
from sealtune.party.driver import Ask, Driver, Program
from sealtune.party.node_link import serve_forever
from sealtune.party.outcome import new_outcomes
from sealtune.party.relay_link import serve_until_done
from sealtune.party.site_program import SiteProgram
from sealtune.party.trust import SERVER, Trust

SITES = ("north", "south", "west")
DEADLINE = 600.0
LIMIT = 1 << 28  # bytes of an answer
JOB_ID = bytes(range(48)).hex()


def trust(key: Path) -> Trust:
    """What each shows the others and accepts of them."""
    secret = load_key(key)
    verifier = SimulatedVerifier((secret.public_key().public_bytes_raw(),))
    return Trust(SimulatedAttester(secret), verifier, simulated_policy())


def emit(event: Event) -> None:
    """What enclaves report, for the log."""
    print(event.fields(), flush=True)


class Averaging:
    """A server that averages.

    Args:
        gate: where its orders come from.
    """

    answer_limit = LIMIT
    history = None

    def __init__(self, gate: Path) -> None:
        self._gate = Gate(gate)
        self._round = 0

    def program(self) -> Program:
        """Rounds, as ordered."""
        for order, done in self._gate.orders():
            adapter = np.random.default_rng(1).standard_normal(order.values, dtype=np.float32)
            seconds = []
            for _ in range(order.rounds):
                start = time.perf_counter()
                adapter = yield from self._average(adapter, order)
                seconds.append(time.perf_counter() - start)
            done(seconds)

    def _average(self, adapter: np.ndarray, order: Order) -> Any:
        self._round += 1
        total = np.zeros(order.values, np.float64)

        def check(site: str, answer: Frame) -> np.ndarray:
            update = np.frombuffer(answer.body, np.float32)
            if answer.kind != "update" or len(update) != order.values:
                raise FrameError("not an adapter")
            return update

        def take(site: str, update: np.ndarray) -> None:
            np.add(total, update, out=total)

        question = Frame("train", {"round": self._round, "work": order.work}, adapter.tobytes())
        outcomes = new_outcomes(SITES)
        questions = dict.fromkeys(SITES, question)
        answered = yield Ask(questions, self._round, check, take, outcomes)
        if len(answered) != len(SITES):
            raise SystemExit(f"not every site has answered: {outcomes}")
        return (total / len(SITES)).astype(np.float32)


class Worker:
    """A site that sleeps as long as training takes.

    Args:
        step: what it adds to every number, other than the other sites.
    """

    def __init__(self, step: int) -> None:
        self._step = np.float32(step)

    def answer(self, question: Frame) -> Frame:
        """Another adapter."""
        time.sleep(question.meta["work"])
        update = np.frombuffer(question.body, np.float32) + self._step
        return Frame("update", {}, update.tobytes())


def main() -> None:
    """Be one of them until the end."""
    role, name, socket, key = sys.argv[1:]
    admitted: Any = SimpleNamespace(
        job_id=JOB_ID,
        continuity=None,
        site=name if role == "site" else "",
        settings=SimpleNamespace(network=SimpleNamespace(deadline=DEADLINE)),
    )
    own = trust(Path(key))
    if role == "server":
        admitted.trust = dict.fromkeys(SITES, own)
        serve_until_done(socket, Driver(Averaging(Path(name)), admitted, emit), emit)
    else:
        admitted.trust = {SERVER: own}
        program = SiteProgram(admitted, Worker(1 + SITES.index(name)), emit)
        serve_forever(socket, program, emit, spare=False)


if __name__ == "__main__":
    main()
