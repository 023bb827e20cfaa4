"""The average of the sites' adapters, added up as they arrive.

FedAvg: each tensor is the mean over sites, weighted by the numbers of training rows that everybody
signed. One
update is in memory at a time beside the running sum, which is kept in twice double precision, so
that the order in which sites answer does not change the result: a resumed run gives the same bytes.

No torch: the aggregator's trusted code stays small.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sealtune.errors import AdapterMismatchError, ModelError

Shapes = Mapping[str, tuple[int, ...]]
_HEAD_ROOM = 4096  # bytes of header per tensor: names and offsets take far less


def read_adapter(data: bytes, shapes: Shapes) -> dict[str, NDArray[np.float32]]:
    """Parse an adapter and hold it against the slice plan.

    Args:
        data: safetensors bytes, from another enclave.
        shapes: names and shapes that the plan names trainable.

    Raises:
        AdapterMismatchError: not exactly these tensors, or not float32. Values are looked at
            in ``update_bound``.
    """
    expected = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    if len(data) > expected + _HEAD_ROOM * (len(shapes) + 1):
        raise AdapterMismatchError(f"adapter of {len(data)} bytes, expected about {expected}")
    try:
        tensors: dict[str, NDArray[np.float32]] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterMismatchError("the adapter is not a safetensors file") from error
    if tensors.keys() != shapes.keys():
        odd = sorted(tensors.keys() ^ shapes.keys())
        raise AdapterMismatchError(f"tensors missing or unknown in the adapter, such as {odd[0]}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.shape != tuple(shapes[name]):
            raise AdapterMismatchError(
                f"{name} is {tensor.shape} {tensor.dtype}, not {tuple(shapes[name])} float32"
            )
    return tensors


def write_adapter(tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Safetensors bytes of ``tensors``."""
    data: bytes = save(dict(sorted(tensors.items())), metadata={"format": "pt"})
    return data


class WeightedMean:
    """A running weighted mean of adapters.

    Args:
        shapes: names and shapes of the tensors.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._high = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._low = {name: np.zeros(shape) for name, shape in shapes.items()}
        self._weight = 0

    def add(self, tensors: Mapping[str, NDArray[np.float32]], weight: int) -> None:
        """Add one adapter; ``weight`` is its number of examples, below 2^29."""
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
