"""The enclave's two passes around a masked product: encode and mask, unmask and decode.

Each is one pass over memory in C where the library is there (``sealtune.native``), and a few of
PyTorch where it is not (``slow_passes``); both give the same bits. Memory that the other side can
change is written once, with what it may see, and read once.

Trust domain: client enclave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import POINTER, Structure, c_char_p, c_double, c_int, c_int64, c_uint64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from sealtune.errors import IntegrityError, OffloadError
from sealtune.native import library
from sealtune.offload import slow_passes
from sealtune.offload.codes import Budget
from sealtune.offload.pads import PadKey

_LIAR = "stop using this accelerator: it computes wrongly or it lies; nothing was sent on"
_DEFECT = "this is a defect: report it"
_MAX_VECTORS = 8  # of a check, in C


class _Part(Structure):
    """Columns of the input that lie together."""

    _fields_ = (("x", c_void_p), ("cols", c_int64), ("stride", c_int64))


_KEY = (c_char_p, c_uint64, c_void_p)  # a key and an index, or words
_ENCODE = (
    *(POINTER(_Part), c_int, c_int, c_int64, c_int64, c_void_p, c_double, *_KEY),
    *(c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_int),
)
_DECODE = (
    *(c_void_p, c_void_p, c_int64, c_int64, *_KEY, c_void_p, c_void_p, c_void_p),
    *(c_void_p, c_int64, c_void_p, c_void_p, c_int, c_int),
)
_NO_AES = -1
_OUT_OF_RANGE, _WRONG = 1, 2


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
    x: Tensor | Sequence[Tensor],
    budget: Budget,
    pad: PadKey | None,
    check: Tensor | None,
    out: Tensor,
    *,
    scale: Tensor | None = None,
) -> Encoded:
    """Round rows of ``x * scale`` to ring codes, add the pad, write them to ``out``.

    Args:
        x: float32 or bfloat16 [T, K]; or parts of one dtype that lie side by side, K in sum.
        budget: of the matrix that the codes will be multiplied with.
        pad: its key stream is added; ``None`` sends codes without masks (``insecure-none``).
        check: uint32 [C, K], ``CheckVectors.right``; None: no check.
        out: int32 [T, K]; may be shared with the accelerator, nothing but masked codes is written.
        scale: float32 [K], in place of ones.

    Raises:
        OffloadError: a row holds NaN or infinity; nothing of that row was written.
    """
    parts = (x,) if isinstance(x, Tensor) else tuple(x)
    rows, cols = out.shape
    dtype = torch.bfloat16 if parts[0].dtype == torch.bfloat16 else torch.float32
    for part in parts:
        _expect("x", part, (rows, part.shape[-1]), dtype)
    if sum(part.shape[1] for part in parts) != cols:
        raise OffloadError(f"parts of a masked product do not make {cols} columns", hint=_DEFECT)
    _expect("out", out, (rows, cols), torch.int32)
    _expect_vectors(check, scale, None, cols)
    vectors = 0 if check is None else len(check)
    native = library.function("sealtune_encode_mask", *_ENCODE)
    if native is None or vectors > _MAX_VECTORS:
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        made = slow_passes.encode_mask(joined, budget.code_norm, pad, check, out, scale)
        if made is None:
            raise _not_finite()
        return Encoded(*made)
    parts = tuple(p if p.stride(1) == 1 or p.shape[1] == 1 else p.contiguous() for p in parts)
    laid = (_Part * len(parts))(*(_Part(p.data_ptr(), p.shape[1], p.stride(0)) for p in parts))
    step = torch.empty(rows, dtype=torch.float32)
    sums = torch.empty((rows, vectors), dtype=torch.int64)
    half = int(dtype == torch.bfloat16)

    def run(*key: object) -> int:
        return native(
            *(laid, len(parts), half, rows, cols, _at(scale), budget.code_norm, *key),
            *(_at(check), vectors, _at(out), _at(step), _at(sums), torch.get_num_threads()),
        )

    if _with_key(run, pad, rows, cols):
        raise _not_finite()
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
    dtype: torch.dtype = torch.float32,
    bias: Tensor | None = None,
) -> Tensor:
    """Take the mask off an answer, check it, and decode it to ``y * step * scale + bias``.

    Args:
        y: int32 [T, N], the answer; may be memory that the accelerator still changes.
        product: int32 [T, N], the pad's product; ``None``: the answer has no mask.
        blind: its key stream lies on ``product`` and is taken off it.
        encoded: what ``encode_mask`` returned for this call.
        scale: float32 [N], in place of ones.
        check: uint32 [C, N], ``CheckVectors.left``; None as in ``encode_mask``.
        where: layer and direction, for the message.
        out: [T, N] of ``dtype``; default: new.
        dtype: float32, or bfloat16, to which the result is rounded last.
        bias: float32 [N].

    Raises:
        IntegrityError: an entry is outside (-2^30, 2^30), or a check sum is wrong.
    """
    rows, cols = y.shape
    vectors = 0 if check is None else len(check)
    if out is None:
        out = torch.empty((rows, cols), dtype=dtype)
    _expect("y", y, (rows, cols), torch.int32)
    if product is not None:
        _expect("product", product, (rows, cols), torch.int32)
    elif blind is not None:
        raise OffloadError(f"a blind without a product in {where}", hint=_DEFECT)
    _expect("out", out, (rows, cols), *({torch.float32, torch.bfloat16} & {dtype}))
    _expect("step", encoded.step, (rows,), torch.float32)
    _expect("sums", encoded.sums, (rows, vectors), torch.int64)
    _expect_vectors(check, scale, bias, cols)
    native = library.function("sealtune_unmask_decode", *_DECODE)
    if native is None or vectors > _MAX_VECTORS:
        codes = slow_passes.unmask(y, product, blind)
        _judge(not slow_passes.in_range(codes), False, where)
        _judge(False, not slow_passes.sums_are(codes, check, encoded.sums), where)
        slow_passes.decode(codes, encoded.step, scale, bias, out)
        return out
    half = int(dtype == torch.bfloat16)
    y, product = y.contiguous(), None if product is None else product.contiguous()

    def run(*key: object) -> int:
        return native(
            *(_at(y), _at(product), rows, cols, *key, _at(encoded.step), _at(scale), _at(bias)),
            *(_at(check), vectors, _at(encoded.sums), _at(out), half, torch.get_num_threads()),
        )

    failed = _with_key(run, blind, rows, cols)
    _judge(bool(failed & _OUT_OF_RANGE), bool(failed & _WRONG), where)
    return out


def _with_key(run: Callable[..., int], pad: PadKey | None, rows: int, cols: int) -> int:
    """Call ``run`` with a key, or with the words that it makes where the processor has no AES."""
    if pad is None:
        return run(None, 0, None)
    failed = run(*pad.stream.at(pad.index), None)
    if failed != _NO_AES:
        return failed
    words = pad.stream.words(pad.index, rows, cols)
    return run(None, 0, words.data_ptr())


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
    """Refuse what the pointers of C must not be made of; inputs are made contiguous later."""
    right = tensor.shape == shape and tensor.dtype in dtypes and tensor.device.type == "cpu"
    if not right or not (tensor.is_contiguous() or name in ("x", "y", "product")):
        raise OffloadError(
            f"{name} of a masked product is {tensor.dtype} {tuple(tensor.shape)}, strides "
            f"{tensor.stride()}, on {tensor.device}, not {dtypes} {shape} on the processor",
            hint=_DEFECT,
        )


def _expect_vectors(
    check: Tensor | None, scale: Tensor | None, bias: Tensor | None, cols: int
) -> None:
    if check is not None:
        _expect("check", check, (len(check), cols), torch.uint32)
    for name, values in (("scale", scale), ("bias", bias)):
        if values is not None:
            _expect(name, values, (cols,), torch.float32)


def _judge(out_of_range: bool, wrong: bool, where: str) -> None:
    if out_of_range:
        raise IntegrityError(f"the accelerator's result for {where} is out of range", hint=_LIAR)
    if wrong:
        raise IntegrityError(f"the accelerator's product for {where} is wrong", hint=_LIAR)


def _not_finite() -> OffloadError:
    return OffloadError(
        "NaN or infinity reached a masked layer",
        hint="lower train.learning_rate, or check the data",
    )
