"""Flower's FedAvg, and its SecAgg+, as its own code has them, of an adapter that sites train.

The workflow, the mod and the strategies are Flower's. Its messages are serialised as on the wire
and read again on the other side, all in one process: there is no SuperLink, no network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as Wire
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

Arrays = list[NDArray[np.float32]]
Train = Callable[[str, Arrays, int], tuple[Arrays, int]]  # site, adapter, round -> adapter, rows


class Nodes(Grid):
    """Sites' apps, to which messages go at once.

    Args:
        apps: site -> its app.

    Attributes:
        up, down: bytes of all messages.
    """

    def __init__(self, apps: Mapping[str, ClientApp]) -> None:
        self.up = self.down = 0
        self._run = Run.create_empty(1)
        self._apps = dict(enumerate(apps.values(), 1))
        self._contexts = {node: _context(node) for node in self._apps}

    def set_run(self, run: Run) -> None:
        """See ``Grid``."""

    @property
    def run(self) -> Run:
        """See ``Grid``."""
        return self._run

    def create_message(self, *given: Any, **named: Any) -> Message:
        """See ``Grid``; nobody calls it."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """See ``Grid``."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See ``Grid``; nobody calls it."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See ``Grid``; nobody calls it."""
        raise NotImplementedError

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """See ``Grid``."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            sent = message_to_proto(message).SerializeToString()
            read = message_from_proto(Wire.FromString(sent))
            reply = message_to_proto(self._apps[node](read, self._contexts[node]))
            answered = reply.SerializeToString()
            self.down, self.up = self.down + len(sent), self.up + len(answered)
            replies.append(message_from_proto(Wire.FromString(answered)))
        return replies


def _context(node: int) -> Context:
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


class _Client(NumPyClient):
    def __init__(self, site: str, train: Train) -> None:
        self._site, self._train = site, train

    def fit(self, parameters: Any, config: Mapping[str, Any]) -> Any:
        """One round."""
        after, rows = self._train(self._site, parameters, int(config["round"]))
        return after, rows, {}


class _Kept(FedAvg):
    """FedAvg whose last adapter can be had."""

    adapter: Arrays

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """As ever."""
        if failures:
            raise RuntimeError(f"a site failed: {failures[0]}")
        parameters, metrics = super().aggregate_fit(server_round, results, failures)
        if parameters is None:
            raise RuntimeError("no site has answered")
        self.adapter = parameters_to_ndarrays(parameters)
        return parameters, metrics


def _maker(site: str, train: Train) -> Callable[[Context], Client]:
    return lambda context: _Client(site, train).to_client()


@dataclass(frozen=True)
class Flown:
    """What came of it."""

    adapter: Arrays
    up: int
    down: int


def fly(sites: Sequence[str], initial: Arrays, train: Train, rounds: int, *, secure: bool) -> Flown:
    """Train an adapter.

    Args:
        initial: where it begins.
        train: what a site does in a round.
        secure: by SecAgg+, with Flower's own clipping and quantisation.
    """
    random.seed(1)  # Flower shuffles nodes
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID
    mods = [secaggplus_mod] if secure else []
    nodes = Nodes({site: ClientApp(_maker(site, train), mods) for site in sites})
    strategy = _Kept(
        fraction_evaluate=0.0,
        min_fit_clients=len(sites),
        min_available_clients=len(sites),
        initial_parameters=ndarrays_to_parameters(initial),
        on_fit_config_fn=lambda number: {"round": number},
    )
    context = LegacyContext(_context(0), ServerConfig(num_rounds=rounds), strategy)
    # a share for every site, and all but one of them open a mask
    fit = SecAggPlusWorkflow(len(sites), len(sites) - 1) if secure else None
    DefaultWorkflow(fit_workflow=fit)(nodes, context)
    return Flown(strategy.adapter, nodes.up, nodes.down)
