"""Frozen linear layers whose products are computed elsewhere, under a one-time pad.

``MaskedLinear`` takes the place of a frozen ``nn.Linear`` inside an unmodified Hugging Face or PEFT
model. Forward sends ``round(x) + r`` and takes ``W r`` off the answer; backward does the same with
the gradient and ``W^T``. Layers that share an input (q, k, v; gate, up) share one pad and one call.

Trust domain: client enclave.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from sealtune.errors import OffloadError, PadReuseError
from sealtune.offload import freivalds, ring
from sealtune.offload.accelerator import Accelerator
from sealtune.offload.codes import decode, encode
from sealtune.offload.frozen import FrozenGroup
from sealtune.offload.pads import Pad, PadKey, PadStream


class GroupChannel:
    """One group of linear layers: its pads, its calls, its checks.

    Args:
        frozen: weights of the group, verified.
        accelerator: who multiplies.
        pads: key stream; ``None`` sends codes without masks (``insecure-none``).
        integrity_bits: bound of the Freivalds check, 2^-bits.
        seconds: running totals, shared by the session; key ``accelerator`` is added to here.
    """

    def __init__(
        self,
        frozen: FrozenGroup,
        accelerator: Accelerator,
        pads: PadStream | None,
        integrity_bits: int,
        seconds: dict[str, float],
    ) -> None:
        self.frozen = frozen
        self._accelerator = accelerator
        self._pads = pads
        self._integrity_bits = integrity_bits
        self._seconds = seconds
        self._ready: dict[bool, deque[tuple[int, Pad]]] = {False: deque(), True: deque()}

    def prepare(self, rows: int, *, backward: bool) -> None:
        """Make the pad for one call of ``rows`` token rows ahead of time."""
        if self._pads is None:
            return
        matrix = self.frozen.matrix(backward)
        index = self._pads.reserve()
        mask = self._pads.mask(index, rows, matrix.shape[0])
        product = ring.product(mask, matrix)
        pad = Pad(PadKey(self._pads, index), lambda: product)
        self._ready[backward].append((rows, pad))

    def discard(self) -> None:
        """Throw unused pads away; their indices stay used."""
        for queue in self._ready.values():
            queue.clear()

    def multiply(self, values: Tensor, *, backward: bool) -> Tensor:
        """``values @ W^T`` (forward) or ``values @ W`` (backward) of the int8 matrix, decoded.

        Args:
            values: float32 [T, K] (forward) or [T, N] (backward).

        Returns:
            float32 [T, N] or [T, K], without the channel scales.
        """
        where = f"{self.frozen.spec.name} {'backward' if backward else 'forward'}"
        codes, step = encode(values, self.frozen.budgets[backward])
        pad = self._take(values.shape[0], backward, where)
        if pad is not None:
            assert self._pads is not None
            codes += self._pads.mask(pad.key.index, *codes.shape)
        call = self._accelerator.call(self.frozen.spec.name, codes.shape[0], backward=backward)
        call.codes.copy_(codes)
        start = perf_counter()
        call.submit()
        result = call.result().clone()
        self._seconds["accelerator"] += perf_counter() - start
        freivalds.check_product(
            codes, result, self.frozen.matrix(backward), bits=self._integrity_bits, where=where
        )
        if pad is not None:
            result -= pad.product()
        freivalds.check_range(result, where)
        return decode(result, step)

    def _take(self, rows: int, backward: bool, where: str) -> Pad | None:
        if self._pads is None:
            return None
        if not self._ready[backward]:
            raise PadReuseError(
                f"no pad is left for {where}; refusing to reuse one",
                hint="each forward pass has its pads, once: no recomputation (activation "
                "checkpointing), and no second pass before the backward pass of the first",
            )
        made, pad = self._ready[backward].popleft()
        if made != rows:
            raise OffloadError(f"the pad for {where} covers {made} rows, not {rows}")
        pad.key.spend()
        return pad


class _MaskedProduct(torch.autograd.Function):
    """Autograd node of one group call: x [T, K] -> y [T, N] with channel scales applied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channel: GroupChannel) -> Tensor:
        ctx.channel = channel
        return channel.multiply(x, backward=False).mul_(channel.frozen.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        channel: GroupChannel = ctx.channel
        return channel.multiply(grads[0] * channel.frozen.scale, backward=True), None


class SharedInput:
    """Hands each member of a group its part of one shared product.

    The first member called with an input triggers the call; the others must come with the same
    tensor, as the slice plan saw them do.
    """

    def __init__(self, channel: GroupChannel) -> None:
        self.channel = channel
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def output(self, x: Tensor, member: int) -> Tensor:
        """Part of member number ``member``: float32 [..., N_member]."""
        spec = self.channel.frozen.spec
        if not self._parts:
            self._input = x
            flat = x.reshape(-1, spec.in_features).to(torch.float32)
            y = cast(Tensor, _MaskedProduct.apply(flat, self.channel))  # type: ignore[no-untyped-call]
            shape = (*x.shape[:-1], -1)
            self._parts = {
                i: part.view(shape)
                for i, part in enumerate(torch.split(y, list(spec.out_features), dim=1))
            }
        if self._input is not x or member not in self._parts:
            self.reset()
            raise OffloadError(
                f"{spec.members[member]} was called in another way than the slice plan saw",
                hint="this model is not one that the plan understands; run `sealtune plan` on it",
            )
        part = self._parts.pop(member)
        if not self._parts:
            self._input = None
        return part

    def reset(self) -> None:
        """Forget a half-served product (after an interrupted step)."""
        self._input = None
        self._parts = {}


class MaskedLinear(nn.Module):
    """Drop-in for a frozen linear layer; holds no weight, only its bias.

    Args:
        shared: the group that computes the product.
        member: which part of it this layer is.
        bias: float32 [N] or None.
    """

    def __init__(self, shared: SharedInput, member: int, bias: Tensor | None) -> None:
        super().__init__()
        self._shared = shared
        self._member = member
        self.in_features = shared.channel.frozen.spec.in_features
        self.out_features = shared.channel.frozen.spec.out_features[member]
        self.register_buffer("bias", bias, persistent=False)
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """float [..., K] -> [..., N]."""
        y = self._shared.output(x, self._member)
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)


class PlainPrefix(nn.Module):
    """Stands where the embedding was: embedding and leading blocks, run by the accelerator.

    Only for ``protect = "adapter"``: nothing in it depends on the adapter.
    """

    def __init__(self, accelerator: Accelerator, seconds: dict[str, float]) -> None:
        super().__init__()
        self._accelerator = accelerator
        self._seconds = seconds

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [B, T] -> float32 [B, T, D]."""
        start = perf_counter()
        hidden = self._accelerator.prefix(input_ids)
        self._seconds["accelerator"] += perf_counter() - start
        return hidden


class PassThrough(nn.Module):
    """Stands where a block was that the prefix has already computed."""

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        """Its input, unchanged."""
        return hidden_states
