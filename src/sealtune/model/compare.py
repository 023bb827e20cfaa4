"""Whether two models give the same answers: after every export, read back against live.

Trust domain: client enclave (federated), server enclave (split); whoever merges an adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sealtune.errors import AdapterMismatchError

ROUNDED_LEAST = 0.8  # int8 weights or bfloat16 keep it above 0.99 on the models tried
SAME_LEAST = 0.9999  # of models that should compute the same
_COMPARED = 1 << 18  # logits at a time: 2 MiB of float64


@dataclass(frozen=True)
class ExportCheck:
    """The written adapter on the original weights against the live one.

    Attributes:
        difference: largest difference of two logits, over the standard deviation of the live ones.
        agreement: share of texts (tokens for ``causal-lm``) with the same answer.
    """

    difference: float
    agreement: float


def compare_logits(expected: Tensor, got: Tensor, *, least: float = ROUNDED_LEAST) -> ExportCheck:
    """Hold the logits of a written model against those of the live one.

    Args:
        expected: of the live model, float [rows, n] (``Task.logits``).
        got: of the written one, on the same batch.
        least: cosine similarity that they must exceed.

    Raises:
        AdapterMismatchError: the answers differ grossly.
    """
    return compare_parts([(expected, got)], least=least)


def _few_rows(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same rows, so few at a time that their float64 copies are small."""
    for expected, got in pairs:
        if expected.shape != got.shape:
            raise ValueError(f"logits {tuple(expected.shape)} against {tuple(got.shape)}")
        count = max(1, _COMPARED // expected.shape[-1])
        yield from zip(torch.split(expected, count), torch.split(got, count), strict=True)


def compare_parts(
    pairs: Iterable[tuple[Tensor, Tensor]], *, least: float = ROUNDED_LEAST
) -> ExportCheck:
    """``compare_logits`` of rows that come in parts, each ``(expected, got)``."""
    rows = same = count = 0
    largest = 0.0
    sums = torch.zeros(4, dtype=torch.float64)  # of e, e^2, g^2, e g
    for expected, got in _few_rows(pairs):
        e, g = expected.double(), got.double()
        rows, count = rows + len(e), count + e.numel()
        same += int((e.argmax(-1) == g.argmax(-1)).sum())
        largest = max(largest, float((e - g).abs().max()))
        sums += torch.stack([e.sum(), (e * e).sum(), (g * g).sum(), (e * g).sum()]).cpu()
    total, squares, others, products = sums.tolist()
    deviation = max(0.0, (squares - total * total / count) / max(1, count - 1)) ** 0.5
    check = ExportCheck(difference=largest / (deviation or 1.0), agreement=same / rows)
    similarity = products / (squares * others) ** 0.5 if squares * others else math.nan
    if not similarity > least:
        raise AdapterMismatchError(
            f"on the original weights the written adapter answers otherwise than the live one "
            f"(similarity of logits {similarity:.3f}, same answer in {check.agreement:.0%})",
            hint="the adapter is not usable; keep the run folder and report this",
        )
    return check
