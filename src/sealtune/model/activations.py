"""Cut activations as bytes: float32, bfloat16, or int8 with one scale per token.

    bytes per token   fp32: 4 D    bf16: 2 D    int8: D + 2

int8: the scale is the token's largest magnitude over 127, rounded up to a bfloat16, so that codes
are made with exactly the scale that is sent. A sample's scales follow its codes.

Trust domain: data owner (packing), server enclave (unpacking; lengths are checked before use).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sealtune.errors import DataError

Form = Literal["bf16", "int8", "fp32"]
_SCALE = 2  # bytes of a bfloat16
# Beyond this, activations are damage or an attack: the massive ones of real models stay below 1e5.
LARGEST = 1e6


def bytes_per_token(form: Form, width: int) -> int:
    """Bytes that one token's activations of ``width`` values take."""
    return {"fp32": 4 * width, "bf16": 2 * width, "int8": width + _SCALE}[form]


def pack(hidden: Tensor, form: Form) -> bytes:
    """Write activations of one sample.

    Args:
        hidden: float32 [T, D].

    Raises:
        DataError: a value is not finite, or too large for the form.
    """
    if not bool(torch.isfinite(hidden).all()):
        raise DataError(
            "the cut activations hold NaN or infinity",
            hint="the model files may be damaged: check them, and the job's model digest",
        )
    if form == "fp32":
        return _raw(hidden.float())
    if form == "bf16":
        rounded = hidden.to(torch.bfloat16)
        if not bool(torch.isfinite(rounded).all()):
            raise DataError("the cut activations are too large for bf16", hint='use "fp32"')
        return _raw(rounded)
    scale = _round_up(hidden.abs().amax(dim=1) / 127)
    codes = (hidden / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return _raw(codes) + _raw(scale)


def unpack(data: bytes | memoryview, form: Form, width: int) -> Tensor:
    """Read what ``pack`` wrote: float32 [T, D].

    Raises:
        DataError: a length that no sample has, or values that are not finite.
    """
    size = len(data)
    tokens, rest = divmod(size, bytes_per_token(form, width))
    if rest or not tokens:
        raise DataError(f"{size} bytes are no {form} activations of {width} values a token")
    buffer = bytearray(data)  # torch wants memory that it may write to
    if form == "int8":
        codes = torch.frombuffer(buffer, dtype=torch.int8, count=tokens * width)
        scale = torch.frombuffer(buffer, dtype=torch.bfloat16, offset=tokens * width)
        hidden = codes.reshape(tokens, width).float() * scale.float()[:, None]
    else:
        kind = torch.float32 if form == "fp32" else torch.bfloat16
        hidden = torch.frombuffer(buffer, dtype=kind).reshape(tokens, width).float()
    if not bool(torch.isfinite(hidden).all()):
        raise DataError("cut activations hold NaN or infinity")
    return hidden


def _round_up(scale: Tensor) -> Tensor:
    """The next bfloat16 that is not below ``scale``; 1 where it is 0."""
    scale = torch.where(scale > 0, scale, torch.ones_like(scale)).float()
    near = scale.to(torch.bfloat16)
    bits = near.view(torch.int16) + (near.float() < scale).to(torch.int16)
    return bits.view(torch.bfloat16)


def _raw(tensor: Tensor) -> bytes:
    flat = tensor.contiguous().view(torch.uint8).reshape(-1)
    raw: bytes = np.asarray(flat).tobytes()
    return raw
