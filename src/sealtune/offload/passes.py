"""The enclave's two passes around a masked product: encode and mask, unmask and decode.

Each is one pass over memory in C where the library is there (``sealtune.native``), and some passes
of PyTorch where it is not; both give the same bits. The 2-norm of a row is summed in double in 16
interleaved lanes that are folded in halves: one order of additions for every processor.

Memory that the other side can change is written once, with what it may see, and read once.

Trust domain: client enclave.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sealtune.errors import IntegrityError, OffloadError
from sealtune.offload import prime_check
from sealtune.offload.codes import RESULT_LIMIT, Budget
from sealtune.offload.pads import PadKey

_SMALLEST_NORM = 1e-20  # rows smaller than this are coded as zeros
_LANES = 16
_LIAR = "stop using this accelerator: it computes wrongly or it lies; nothing was sent on"


@dataclass(frozen=True)
class Encoded:
    """What the enclave keeps of a call until its answer comes.

    Attributes:
        step: float32 [T]; ``x ~ codes * step``.
        sums: int64 [T, C], see ``prime_check.sums``; C is 0 without a check.
    """

    step: Tensor
    sums: Tensor


def encode_mask(
    x: Tensor,
    budget: Budget,
    pad: PadKey | None,
    check: Tensor | None,
    out: Tensor,
    *,
    scale: Tensor | None = None,
) -> Encoded:
    """Round rows of ``x * scale`` to ring codes, add the pad, write them to ``out``.

    Args:
        x: float32 or bfloat16 [T, K], rows at any distance.
        budget: of the matrix that the codes will be multiplied with.
        pad: its key stream is added; ``None`` sends codes without masks (``insecure-none``).
        check: uint32 [C, K], ``CheckVectors.right``; None: no check.
        out: int32 [T, K]; may be shared with the accelerator, nothing but masked codes is written.
        scale: float32 [K], in place of ones.

    Raises:
        OffloadError: a row holds NaN or infinity; nothing of that row was written.
    """
    rows, cols = x.shape
    _expect(x, "x", (torch.float32, torch.bfloat16), (rows, cols))
    _expect(out, "out", (torch.int32,), (rows, cols))
    _expect_vectors(check, scale, cols)
    values = x.to(torch.float32)
    if scale is not None:
        values = values * scale
    norm = _norms(values)
    finite = torch.isfinite(norm)
    if not bool(finite.all()):
        raise _not_finite()
    factor, step = _factors(norm, budget.code_norm)
    codes = (values * factor[:, None]).round_().to(torch.int32)
    sums = _sums(codes, check)
    if pad is not None:
        codes += pad.stream.mask(pad.index, rows, cols)
    out.copy_(codes)
    return Encoded(step, sums)


def unmask_decode(
    y: Tensor,
    product: Tensor | None,
    blind: PadKey | None,
    encoded: Encoded,
    scale: Tensor | None,
    check: Tensor | None,
    where: str,
    out: Tensor | None = None,
    *,
    bias: Tensor | None = None,
) -> Tensor:
    """Take the mask off an answer, check it, and decode it to ``y * step * scale + bias``.

    Args:
        y: int32 [T, N], the answer; may be memory that the accelerator still changes.
        product: int32 [T, N], the pad's product; ``None``: the answer has no mask.
        blind: its key stream lies on ``product`` and is taken off it.
        encoded: what ``encode_mask`` returned for this call.
        scale: float32 [N], in place of ones.
        check: uint32 [C, N], ``CheckVectors.left``.
        where: layer and direction, for the message.
        out: float32 [T, N]; default: new.
        bias: float32 [N].

    Raises:
        IntegrityError: an entry is outside (-2^30, 2^30), or a check sum is wrong.
    """
    rows, cols = y.shape
    _expect(y, "y", (torch.int32,), (rows, cols))
    if product is not None:
        _expect(product, "product", (torch.int32,), (rows, cols))
    _expect_vectors(check, scale, cols)
    _expect_vectors(None, bias, cols)
    _expect(encoded.step, "step", (torch.float32,), (rows,))
    _expect(encoded.sums, "sums", (torch.int64,), (rows, 0 if check is None else check.shape[0]))
    if out is None:
        out = torch.empty((rows, cols), dtype=torch.float32)
    _expect(out, "out", (torch.float32,), (rows, cols))
    codes = y.clone() if product is None else y - product
    if blind is not None:
        codes += blind.stream.mask(blind.index, rows, cols)
    if bool((codes.to(torch.int64).abs_() >= RESULT_LIMIT).any()):
        raise _out_of_range(where)
    if not torch.equal(_sums(codes, check), encoded.sums):
        raise _wrong(where)
    torch.mul(codes.to(torch.float32), encoded.step[:, None], out=out)
    if scale is not None:
        out *= scale
    if bias is not None:
        out += bias
    return out


def _expect(
    tensor: Tensor, name: str, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...]
) -> None:
    if tensor.dtype not in dtypes or tuple(tensor.shape) != shape or tensor.device.type != "cpu":
        raise OffloadError(
            f"{name} of a masked product is {tensor.dtype} {tuple(tensor.shape)} on "
            f"{tensor.device}, not {' or '.join(map(str, dtypes))} {shape} on the processor",
            hint="this is a defect: report it",
        )


def _expect_vectors(check: Tensor | None, per_column: Tensor | None, cols: int) -> None:
    if check is not None:
        _expect(check, "check", (torch.uint32,), (check.shape[0], cols))
    if per_column is not None:
        _expect(per_column, "scale or bias", (torch.float32,), (cols,))


def _norms(values: Tensor) -> Tensor:
    """2-norms of rows: float64 [T]."""
    rows, cols = values.shape
    padded = torch.nn.functional.pad(values.to(torch.float64), (0, -cols % _LANES))
    lanes = torch.zeros((rows, _LANES), dtype=torch.float64)
    for part in torch.split(padded.square_(), _LANES, dim=1):
        lanes += part
    while lanes.shape[1] > 1:
        left, right = lanes.chunk(2, dim=1)
        lanes = left + right
    return lanes[:, 0].sqrt()


def _factors(norm: Tensor, code_norm: float) -> tuple[Tensor, Tensor]:
    """What values are multiplied with before they are rounded, and steps: float32 [T] each."""
    small = norm < _SMALLEST_NORM
    factor = (code_norm / norm).masked_fill_(small, 0.0)
    return factor.to(torch.float32), (norm / code_norm).masked_fill_(small, 0.0).to(torch.float32)


def _sums(codes: Tensor, check: Tensor | None) -> Tensor:
    if check is None:
        return torch.zeros((len(codes), 0), dtype=torch.int64)
    return prime_check.sums(codes, check)


def _not_finite() -> OffloadError:
    return OffloadError(
        "NaN or infinity reached a masked layer",
        hint="lower train.learning_rate, or check the data",
    )


def _out_of_range(where: str) -> IntegrityError:
    return IntegrityError(f"the accelerator's result for {where} is out of range", hint=_LIAR)


def _wrong(where: str) -> IntegrityError:
    return IntegrityError(f"the accelerator's product for {where} is wrong", hint=_LIAR)
