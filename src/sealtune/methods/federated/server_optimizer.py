"""Optimizers that move the global adapter, with the round's mean update in a gradient's place.

``fedavgm`` is that of Hsu et al., arXiv 1909.06335; ``fedadam`` and ``fedyogi`` are algorithm 2 of
Reddi et al., arXiv 2003.00295, with ``v_0 = server_adaptivity^2`` and no correction of the bias:

    fedavgm   m = b1 m + d                 w = w + lr m
    others    m = b1 m + (1 - b1) d        w = w + lr m / (sqrt(v) + t)
    fedadam   v = b2 v + (1 - b2) d^2
    fedyogi   v = v - (1 - b2) d^2 sign(v - d^2)

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sealtune.job.federated_sections import AggregationSpec
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.pieces import pieces

_Wide = NDArray[np.float64]


class ServerOptimizer:
    """Means over the rounds, float32; each step is computed in double precision.

    Args:
        settings: with an optimizer.
        before: the adapter that it begins with; its shapes count.
        kept: what ``state`` was after an earlier round; empty: it begins.

    Attributes:
        state: ``momentum`` and, but for ``fedavgm``, ``squares``, each a tensor for each of the
            adapter's.
    """

    def __init__(
        self, settings: AggregationSpec, before: Tensors, kept: Mapping[str, Tensors]
    ) -> None:
        self._settings = settings
        first = {"momentum": 0.0}
        if settings.server_optimizer != "fedavgm":
            first["squares"] = settings.server_adaptivity**2
        self.state: dict[str, dict[str, NDArray[np.float32]]] = {
            what: {
                name: kept[what][name].copy() if kept else np.full_like(tensor, value)
                for name, tensor in before.items()
            }
            for what, value in first.items()
        }

    def step(self, before: Tensors, mean: Tensors) -> dict[str, NDArray[np.float32]]:
        """The next global adapter.

        Args:
            before: the one that the round began with.
            mean: the one that the rule made of the round.
        """
        after = {}
        for name, old in before.items():
            new = np.empty_like(old)
            flat = [one.reshape(-1) for one in (old, mean[name], new)]
            state = {what: tensors[name].reshape(-1) for what, tensors in self.state.items()}
            for piece in pieces(old.size):
                start, proposed, moved = (one[piece] for one in flat)
                wide = start.astype(np.float64)
                move = self._move(proposed - wide, {k: t[piece] for k, t in state.items()})
                moved[:] = wide + move
            after[name] = new
        return after

    def _move(self, update: _Wide, state: Mapping[str, NDArray[np.float32]]) -> _Wide:
        """One step's movement; ``state`` goes on with it."""
        own, momentum = self._settings, state["momentum"]
        plain = own.server_optimizer == "fedavgm"
        mean = own.server_momentum * momentum.astype(np.float64)
        mean += update if plain else (1 - own.server_momentum) * update
        momentum[:] = mean
        if plain:
            return own.optimizer_rate * mean
        squares, square = state["squares"].astype(np.float64), update**2
        if own.server_optimizer == "fedadam":
            towards = square - squares
        else:
            towards = square * np.sign(square - squares)
        squares += (1 - own.server_second_momentum) * towards
        state["squares"][:] = squares
        return own.optimizer_rate * mean / (np.sqrt(squares) + own.server_adaptivity)
