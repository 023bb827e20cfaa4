"""Whether two models give the same answers: after every export, read back against live.

Trust domain: client enclave (federated), server enclave (split); whoever merges an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sealtune.errors import AdapterMismatchError

ROUNDED_LEAST = 0.8  # int8 weights or bfloat16 keep it above 0.99 on the models tried
SAME_LEAST = 0.9999  # of models that should compute the same


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
    scale = float(expected.std()) or 1.0
    check = ExportCheck(
        difference=float((expected - got).abs().max()) / scale,
        agreement=float((expected.argmax(-1) == got.argmax(-1)).float().mean()),
    )
    similarity = float(torch.cosine_similarity(expected.flatten(), got.flatten(), dim=0))
    if not similarity > least:
        raise AdapterMismatchError(
            f"on the original weights the written adapter answers otherwise than the live one "
            f"(similarity of logits {similarity:.3f}, same answer in {check.agreement:.0%})",
            hint="the adapter is not usable; keep the run folder and report this",
        )
    return check
