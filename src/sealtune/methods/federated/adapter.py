"""The adapter as the aggregator reads and writes it.

No torch: the aggregator's trusted code stays small.

Trust domain: server enclave.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sealtune.errors import AdapterMismatchError

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, NDArray[np.float32]]
_HEAD_ROOM = 4096  # bytes of header per tensor: names and offsets take far less


def adapter_size(shapes: Shapes) -> int:
    """Bytes of an adapter's numbers."""
    return sum(4 * int(np.prod(shape)) for shape in shapes.values())


def read_adapter(data: bytes, shapes: Shapes) -> dict[str, NDArray[np.float32]]:
    """Parse an adapter and hold it against the slice plan.

    Args:
        data: safetensors bytes, from another enclave.
        shapes: names and shapes that the plan names trainable.

    Raises:
        AdapterMismatchError: not exactly these tensors, or not float32. Values are looked at
            in ``update_bound``.
    """
    expected = adapter_size(shapes)
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


def write_adapter(tensors: Tensors) -> bytes:
    """Safetensors bytes of ``tensors``."""
    data: bytes = save(dict(sorted(tensors.items())), metadata={"format": "pt"})
    return data
