"""Factors of LoRA by their names, and an adapter at a lower rank: its first directions.

``exact`` sorts directions by what they carry, so that the first ones are the best of a lower rank;
before round 1 they are the first rows of the drawn A, which a site of that rank draws itself.

Trust domain: server enclave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sealtune.job.sections import TuningSpec
from sealtune.methods.federated.adapter import AdapterReader, Shapes, Tensors, write_adapter


def factor_pairs(shapes: Shapes) -> dict[str, str]:
    """Name of every A [r, K] -> that of its B [N, r]."""
    pairs = {n: n.replace(".lora_A.", ".lora_B.") for n in sorted(shapes) if ".lora_A." in n}
    return {a: b for a, b in pairs.items() if b in shapes}


def shapes_at(shapes: Shapes, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes that a site of this rank has."""
    blanks = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    return {name: tensor.shape for name, tensor in first_directions(blanks, rank).items()}


def first_directions(tensors: Tensors, rank: int) -> dict[str, NDArray[np.float32]]:
    """What a site of this rank gets; views."""
    return {name: tensor[_first(name, rank)] for name, tensor in tensors.items()}


def _first(name: str, rank: int) -> Any:
    """The index of the first directions; whole tensors have none."""
    if ".lora_A." in name:
        return slice(rank)
    return (slice(None), slice(rank)) if ".lora_B." in name else ...


@dataclass(frozen=True)
class Sent:
    """The global adapter as sites of one rank get it.

    Attributes:
        body: its bytes.
        tensors: what is in them.
        reader: reads what such a site answers.
    """

    body: bytes
    tensors: Tensors
    reader: AdapterReader


class Outgoing:
    """The global adapter as each site gets it.

    Args:
        adapter: its bytes.
        shapes: names and shapes of its tensors.
        tuning: whose ``lora.ranks`` names the sites of a lower rank.
    """

    def __init__(self, adapter: bytes, shapes: Shapes, tuning: TuningSpec) -> None:
        reader = AdapterReader(adapter, shapes)
        self.whole = Sent(adapter, reader.read(adapter), reader)
        self._ranks = tuning.lora.ranks if tuning.lora else {}
        self._lower = {rank: self._at(rank, shapes) for rank in set(self._ranks.values())}

    def to(self, site: str) -> Sent:
        """What a site gets."""
        rank = self._ranks.get(site)
        return self.whole if rank is None else self._lower[rank]

    def _at(self, rank: int, shapes: Shapes) -> Sent:
        tensors = first_directions(self.whole.tensors, rank)
        body = write_adapter({name: np.ascontiguousarray(t) for name, t in tensors.items()})
        return Sent(body, tensors, AdapterReader(body, shapes_at(shapes, rank)))
