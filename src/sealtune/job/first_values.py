"""How a trainable tensor begins: a law in the slice plan, and the job's seed.

Sites and aggregator draw the same numbers without a message, and nothing secret follows from them.
A new law is one function here. No torch: the aggregator draws, too.

The law ``orthogonal`` is PEFT's (``init_lora_weights = "orthogonal"``): A [r, K] is made of every
other row of a random orthogonal matrix [r, r], B [N, r] of the rest, each by normal draws. Both are
far from zero, and B A is zero.

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from sealtune.job.plan import FirstValue, Law

Draws = NDArray[np.float32]
Source = np.random.Generator
_Draw = Callable[[Source, tuple[int, ...]], Draws]


def _constant(_source: Source, shape: tuple[int, ...]) -> Draws:
    return np.ones(shape, np.float32)


def _uniform(source: Source, shape: tuple[int, ...]) -> Draws:
    return 2 * source.random(shape, np.float32) - 1


def _normal(source: Source, shape: tuple[int, ...]) -> Draws:
    return source.standard_normal(shape, np.float32)


_LAWS: Mapping[Law, _Draw] = {"constant": _constant, "uniform": _uniform, "normal": _normal}


def draw(first: FirstValue, seed: int, name: str, shape: tuple[int, ...]) -> Draws:
    """A tensor's first values, float32 of ``shape``.

    Args:
        first: its law and scale.
        seed: the job's.
        name: of the tensor, as in an adapter file.
    """
    source = _source(seed, name)
    if first.law == "orthogonal":
        values = _orthogonal(source, seed, name, shape)
    else:
        values = _LAWS[first.law](source, shape)
    return values * np.float32(first.scale)


def _source(seed: int, name: str) -> Source:
    text = f"sealtune first values\x1f{seed}\x1f{name}"
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def _orthogonal(source: Source, seed: int, name: str, shape: tuple[int, ...]) -> Draws:
    """LoRA's A or B, by its name; both of a layer take their rows of the same matrix."""
    layer, _, factor = name.rpartition(".lora_")
    is_a = factor.startswith("A.")
    rank, width = shape if is_a else shape[::-1]
    whole = np.linalg.qr(_source(seed, layer).standard_normal((rank, rank)))[0]
    rows = whole[0 if is_a else 1 :: 2]  # [r / 2, r]
    made = source.standard_normal((width, rank // 2)) @ rows  # [width, r]
    return np.ascontiguousarray(made.T if is_a else made, dtype=np.float32)


def first_adapter(
    laws: Mapping[str, FirstValue], shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, Draws]:
    """Every tensor of a job as it begins."""
    return {name: draw(laws[name], seed, name, tuple(shape)) for name, shape in shapes.items()}
