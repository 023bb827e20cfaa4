"""The server: FedAvg, for as many rounds as it is told."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from deploy_gate import Gate

app = ServerApp()


class Timed(FedAvg):
    """FedAvg that notes how long its rounds take."""

    def __init__(self) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3, min_evaluate_nodes=0
        )
        self.seconds: list[float] = []

    def configure_train(self, *given: Any) -> Iterable[Message]:
        """A round begins."""
        self._start = time.perf_counter()
        return super().configure_train(*given)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """It ends."""
        replies = list(replies)
        if len(replies) != 3 or any(reply.has_error() for reply in replies):
            raise SystemExit("not every site has answered")
        result = super().aggregate_train(server_round, replies)
        self.seconds.append(time.perf_counter() - self._start)
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Take orders."""
    for order, done in Gate(Path(str(context.run_config["gate"]))).orders():
        generator = np.random.default_rng(1)
        flat = generator.standard_normal(order.values, dtype=np.float32)
        strategy = Timed()
        strategy.start(
            grid,
            ArrayRecord(np.array_split(flat, order.arrays)),
            num_rounds=order.rounds,
            train_config=ConfigRecord({"work": order.work}),
        )
        done(strategy.seconds)
