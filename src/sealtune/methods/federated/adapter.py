"""The adapter as the aggregator reads and writes it.

No torch: the aggregator's trusted code stays small.

Trust domain: server enclave.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sealtune.errors import AdapterMismatchError

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, NDArray[np.float32]]
_HEADER = 1024  # bytes: length, metadata and padding
_ENTRY = 256  # bytes beside a tensor's name: type, shape, two offsets


def adapter_size(shapes: Shapes) -> int:
    """Bytes of an adapter's numbers."""
    return sum(4 * math.prod(shape) for shape in shapes.values())


def read_adapter(data: bytes, shapes: Shapes) -> dict[str, NDArray[np.float32]]:
    """Parse an adapter and hold it against the slice plan.

    Args:
        data: safetensors bytes, from another enclave.
        shapes: names and shapes that the plan names trainable.

    Raises:
        AdapterMismatchError: not exactly these tensors, or not float32. Values are looked at
            in ``update``.
    """
    expected = adapter_size(shapes)
    header = _HEADER + sum(_ENTRY + len(json.dumps(name)) for name in shapes)
    if len(data) > expected + header:  # before anything reads it
        raise AdapterMismatchError(f"adapter of {len(data)} bytes, expected about {expected}")
    try:
        tensors: dict[str, NDArray[np.float32]] = load(data)
        size = int.from_bytes(data[:8], "little")
        json.loads(data[8 : 8 + size], object_pairs_hook=_each_once)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterMismatchError("the adapter is not a safetensors file of float32") from error
    if tensors.keys() != shapes.keys():
        odd = sorted(tensors.keys() ^ shapes.keys())
        raise AdapterMismatchError(f"tensors missing or unknown in the adapter, such as {odd[0]}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.shape != tuple(shapes[name]):
            raise AdapterMismatchError(
                f"{name} is {tensor.shape} {tensor.dtype}, not {tuple(shapes[name])} float32"
            )
    return tensors


class AdapterReader:
    """Reads the adapters of one job without copying them.

    Sites write what the aggregator writes, down to the byte, but for the numbers: who knows where
    they lie in one file knows it of all, and has nothing to parse.

    Args:
        own: an adapter as ``write_adapter`` gave it.
        shapes: names and shapes of its tensors.
    """

    def __init__(self, own: bytes, shapes: Shapes) -> None:
        self._shapes, self._size = shapes, len(own)
        self._head = own[: 8 + int.from_bytes(own[:8], "little")]
        places = json.loads(self._head[8:])
        self._starts = {n: len(self._head) + places[n]["data_offsets"][0] for n in shapes}

    def read(self, data: bytes) -> dict[str, NDArray[np.float32]]:
        """Parse an adapter; see ``read_adapter``, which reads what is laid out otherwise."""
        if len(data) != self._size or not data.startswith(self._head):
            return read_adapter(data, self._shapes)
        return {
            name: np.frombuffer(data, np.float32, math.prod(shape), self._starts[name]).reshape(
                shape
            )
            for name, shape in self._shapes.items()
        }


def _each_once(pairs: list[tuple[str, object]]) -> None:
    """Of two tensors of one name, ``load`` takes the last, silently."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")


def write_adapter(tensors: Tensors) -> bytes:
    """Safetensors bytes of ``tensors``."""
    data: bytes = save(dict(sorted(tensors.items())), metadata={"format": "pt"})
    return data


def pack(groups: Mapping[str, Tensors]) -> bytes:
    """Safetensors bytes of several sets of tensors, for a checkpoint."""
    return write_adapter(
        {f"{group}/{n}": t for group, own in groups.items() for n, t in own.items()}
    )


def unpack(data: bytes) -> dict[str, dict[str, NDArray[np.float32]]]:
    """What ``pack`` packed; the bytes are the enclave's own."""
    groups: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in load(data).items():
        group, _, own = name.partition("/")
        groups.setdefault(group, {})[own] = tensor
    return groups
