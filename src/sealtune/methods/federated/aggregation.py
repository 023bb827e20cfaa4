"""How a round's updates become the next global adapter.

    @aggregation("median")          # one file: the name, `add`, `result`
    class Median: ...

Updates are taken in as they arrive and have passed ``update_bound``; the result may not depend on
their order, so that a resumed run gives the same bytes.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import ConfigError, ModelError, Problem
from sealtune.methods.federated.adapter import Shapes, Tensors


class Aggregation(Protocol):
    """One round of aggregation."""

    def add(self, site: str, tensors: Tensors, weight: int, /) -> None:
        """Take in a site's adapter; ``weight``, below 2^29, is its number of training rows."""

    def result(self) -> Tensors:
        """The new global adapter, float32; asked for once, after at least one ``add``."""


Make = Callable[[Shapes], Aggregation]
_M = TypeVar("_M", bound=Make)
AGGREGATIONS: dict[str, Make] = {}


def aggregation(name: str) -> Callable[[_M], _M]:
    """Decorator: what it stands before makes the aggregation ``name``, from shapes."""

    def register(make: _M) -> _M:
        AGGREGATIONS[name] = make
        return make

    return register


def aggregation_named(name: str) -> Make:
    """What makes the aggregation that a job names in ``aggregation.rule``.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in AGGREGATIONS:
        known = ", ".join(sorted(AGGREGATIONS))
        problem = Problem("aggregation.rule", f"is '{name}', which is none of: {known}")
        raise ConfigError("the job", [problem])
    return AGGREGATIONS[name]


@aggregation("fedavg")
class FedAvg:
    """The mean of each tensor, weighted by training rows (McMahan et al., arXiv 1602.05629).

    One update is in memory at a time beside the running sum, which is kept in twice double
    precision: exact enough that no order of answers changes the result.

    Args:
        shapes: names and shapes of the tensors.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._high = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._low = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._weight = 0

    def add(self, _site: str, tensors: Tensors, weight: int, /) -> None:
        """See ``Aggregation``."""
        for name, high in self._high.items():
            # exact: a float32 has 24 bits, the weight at most 29
            term = tensors[name].astype(np.float64) * weight
            total = high + term
            # Knuth's two-sum: what rounding took from `total` goes to `low`
            shadow = total - high
            self._low[name] += (high - (total - shadow)) + (term - shadow)
            self._high[name] = total
        self._weight += weight

    def result(self) -> dict[str, NDArray[np.float32]]:
        """The mean, float32.

        Raises:
            ModelError: nothing was added.
        """
        if self._weight == 0:
            raise ModelError("there is nothing to average")
        return {
            name: ((high + self._low[name]) / self._weight).astype(np.float32)
            for name, high in self._high.items()
        }
