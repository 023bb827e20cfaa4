"""Catching a lying accelerator: Freivalds' check in Z_2^32, sharpened by a range check.

Claim to check: ``Y = X W (mod 2^32)`` for public X, Y [T, .] and int8 W. Draw secret ``c`` in
[-128, 127]^T and compare ``c Y`` with ``(c X) W``. An error entry ``e`` with 2-adic valuation ``v``
survives one check with probability at most ``2^-min(8, 32 - v)``. In this ring alone v may be 31
(e = 2^31), which survives every second check. But an honest unmasked result lies in
(-2^30, 2^30), see ``codes``; adding 2^31 leaves that range, so the range check catches it always.
What remains has v <= 30 and survives with probability at most 1/4: ``bits / 2`` checks, drawn anew
for each call from the operating system, give 2^-bits.

Freivalds, "Probabilistic machines can use less running time", IFIP 1977.

Trust domain: client enclave.
"""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from sealtune.errors import IntegrityError, RingBudgetError
from sealtune.offload import ring
from sealtune.offload.codes import RESULT_LIMIT

_HINT = "stop using this accelerator: it computes wrongly or it lies; nothing was sent on"


def check_range(result: Tensor, where: str) -> None:
    """Refuse unmasked results that no honest product can have.

    Args:
        result: int32 [T, N], mask taken off.
        where: layer and direction, for the message.

    Raises:
        IntegrityError: an entry is outside (-2^30, 2^30).
    """
    if result.numel() == 0:
        return
    low, high = torch.aminmax(result)
    if int(low) <= -RESULT_LIMIT or int(high) >= RESULT_LIMIT:
        raise IntegrityError(f"the accelerator's result for {where} is out of range", hint=_HINT)


def check_product(x: Tensor, y: Tensor, weight: Tensor, *, bits: int, where: str) -> None:
    """Refuse ``y`` unless it is ``x @ weight`` mod 2^32.

    Together with ``check_range`` a wrong ``y`` passes with probability at most 2^-bits.

    Args:
        x: int32 [T, K], what was sent.
        y: int32 [T, N], what came back, in private memory.
        weight: int8 [K, N].
        bits: exponent of the bound.
        where: layer and direction, for the message.

    Raises:
        IntegrityError: the product is wrong.
        RingBudgetError: more rows than one check can sum up exactly.
    """
    rows = x.shape[0]
    if rows > ring.MAX_INNER:
        raise RingBudgetError(
            f"{rows} token rows in one call are more than the {ring.MAX_INNER} that can be checked",
            hint="use a smaller batch",
        )
    checks = (bits + 1) // 2
    raw = bytearray(secrets.token_bytes(checks * rows))
    combination = torch.frombuffer(raw, dtype=torch.int8).view(checks, rows)
    left = ring.product(ring.combine(combination, x), weight)
    if not torch.equal(left, ring.combine(combination, y)):
        raise IntegrityError(f"the accelerator's product for {where} is wrong", hint=_HINT)
