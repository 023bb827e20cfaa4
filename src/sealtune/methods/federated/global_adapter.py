"""The global adapter: what a round begins with, what moves it, and what a checkpoint keeps of it.

Trust domain: server enclave; under secure aggregation, server operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sealtune.job.first_values import first_adapter
from sealtune.methods.federated.adapter import (
    AdapterReader,
    Shapes,
    Tensors,
    pack,
    unpack,
    write_adapter,
)
from sealtune.party.admit import Admitted

if TYPE_CHECKING:
    from sealtune.methods.federated.server_optimizer import ServerOptimizer


class GlobalAdapter:
    """The adapter of all sites, and the server optimizer if the job has one.

    Args:
        admitted: the job.
        shapes: names and shapes of what the sites share.
        saved: what ``packed`` gave an earlier process; None: it begins as the plan says.

    Attributes:
        body: its safetensors bytes, as sites are sent them.
    """

    def __init__(self, admitted: Admitted, shapes: Shapes, saved: bytes | None) -> None:
        self._shapes = shapes
        if saved is None:
            laws, seed = admitted.plan.first_values, admitted.settings.job.seed
            kept = {"adapter": first_adapter(laws, shapes, seed)}
        else:
            kept = unpack(saved)
        adapter, settings = kept.pop("adapter"), admitted.settings.aggregation
        self.body = write_adapter(adapter)
        self._optimizer: ServerOptimizer | None = None
        if settings.server_optimizer != "none":
            from sealtune.methods.federated.server_optimizer import ServerOptimizer

            self._optimizer = ServerOptimizer(settings, adapter, kept)

    @property
    def tensors(self) -> Tensors:
        """Its numbers, float32; not to be written to."""
        return AdapterReader(self.body, self._shapes).read(self.body)

    def move(self, mean: Tensors) -> None:
        """Go on to what a round made of the sites' updates, the way the server optimizer does."""
        after = self._optimizer.step(self.tensors, mean) if self._optimizer else mean
        self.body = write_adapter(after)

    def packed(self) -> bytes:
        """Safetensors bytes of all that the next process needs."""
        kept = self._optimizer.state if self._optimizer else {}
        return pack({"adapter": self.tensors, **kept})
