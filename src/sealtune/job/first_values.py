"""How a trainable tensor begins: a law in the slice plan, and the job's seed.

Sites and aggregator draw the same numbers without a message, and nothing secret follows from them.
A new law is one function here. No torch: the aggregator draws, too.

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from sealtune.job.plan import FirstValue, Law

Draws = NDArray[np.float32]
_Draw = Callable[[np.random.Generator, tuple[int, ...]], Draws]


def _constant(_source: np.random.Generator, shape: tuple[int, ...]) -> Draws:
    return np.ones(shape, np.float32)


def _uniform(source: np.random.Generator, shape: tuple[int, ...]) -> Draws:
    return 2 * source.random(shape, np.float32) - 1


def _normal(source: np.random.Generator, shape: tuple[int, ...]) -> Draws:
    return source.standard_normal(shape, np.float32)


_LAWS: Mapping[Law, _Draw] = {"constant": _constant, "uniform": _uniform, "normal": _normal}


def draw(first: FirstValue, seed: int, name: str, shape: tuple[int, ...]) -> Draws:
    """A tensor's first values, float32 of ``shape``.

    Args:
        first: its law and scale.
        seed: the job's.
        name: of the tensor, as in an adapter file.
    """
    text = f"sealtune first values\x1f{seed}\x1f{name}"
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    source = np.random.Generator(np.random.Philox(key=key))
    return _LAWS[first.law](source, shape) * np.float32(first.scale)


def first_adapter(
    laws: Mapping[str, FirstValue], shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, Draws]:
    """Every tensor of a job as it begins."""
    return {name: draw(laws[name], seed, name, tuple(shape)) for name, shape in shapes.items()}
