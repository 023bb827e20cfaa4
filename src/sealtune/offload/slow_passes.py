"""``passes`` in PyTorch: what works where there is no library, and what it is held against.

The 2-norm of a row is summed in double in 16 interleaved lanes that are folded in halves: one order
of additions for every processor, so that all give the same bits.

Trust domain: client enclave.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sealtune.offload import prime_check
from sealtune.offload.codes import RESULT_LIMIT
from sealtune.offload.pads import PadKey

_SMALLEST_NORM = 1e-20  # rows smaller than this are coded as zeros
_LANES = 16


def encode_mask(
    x: Tensor,
    code_norm: float,
    pad: PadKey | None,
    check: Tensor | None,
    out: Tensor,
    scale: Tensor | None,
) -> tuple[Tensor, Tensor] | None:
    """``(step, sums)`` of ``passes.Encoded``; None where a row is not finite, and nothing is
    written."""
    values = x.to(torch.float32)
    if scale is not None:
        values = values * scale
    norm = _norms(values)
    if not bool(torch.isfinite(norm).all()):
        return None
    small = norm < _SMALLEST_NORM
    factor = (code_norm / norm).masked_fill_(small, 0.0).to(torch.float32)
    step = (norm / code_norm).masked_fill_(small, 0.0).to(torch.float32)
    codes = (values * factor[:, None]).round_().to(torch.int32)
    sums = _sums(codes, check)
    if pad is not None:
        codes += pad.stream.mask(pad.index, *codes.shape)
    out.copy_(codes)
    return step, sums


def unmask(y: Tensor, product: Tensor | None, blind: PadKey | None) -> Tensor:
    """The answer without its mask, in private memory: int32 [T, N]."""
    if product is None:
        return y.clone()
    codes = y - product
    if blind is not None:
        codes += blind.stream.mask(blind.index, *codes.shape)
    return codes


def in_range(codes: Tensor) -> bool:
    """Whether all entries are in (-2^30, 2^30)."""
    return bool((codes.to(torch.int64).abs_() < RESULT_LIMIT).all())


def sums_are(codes: Tensor, check: Tensor | None, sums: Tensor) -> bool:
    """Whether these are the check sums."""
    return torch.equal(_sums(codes, check), sums)


def decode(
    codes: Tensor, step: Tensor, scale: Tensor | None, bias: Tensor | None, out: Tensor
) -> None:
    """Write ``codes * step * scale + bias``, each rounded to float32, in the type of ``out``."""
    values = codes.to(torch.float32).mul_(step[:, None])
    if scale is not None:
        values *= scale
    if bias is not None:
        values += bias
    out.copy_(values)


def _norms(values: Tensor) -> Tensor:
    rows, cols = values.shape
    padded = torch.nn.functional.pad(values.to(torch.float64), (0, -cols % _LANES))
    lanes = torch.zeros((rows, _LANES), dtype=torch.float64)
    for part in torch.split(padded.square_(), _LANES, dim=1):
        lanes += part
    while lanes.shape[1] > 1:
        left, right = lanes.chunk(2, dim=1)
        lanes = left + right
    return lanes[:, 0].sqrt()


def _sums(codes: Tensor, check: Tensor | None) -> Tensor:
    if check is None:
        return torch.zeros((len(codes), 0), dtype=torch.int64)
    return prime_check.sums(codes, check)
