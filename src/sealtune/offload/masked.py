"""Frozen linear layers whose products are computed elsewhere, under a one-time pad.

``MaskedLinear`` takes the place of a frozen ``nn.Linear`` inside an unmodified Hugging Face or PEFT
model. Forward sends ``round(x) + r`` and takes ``W r`` off the answer; backward does the same with
the gradient and ``W^T``. Layers that share an input (q, k, v; gate, up) share one pad and one call.

Trust domain: client enclave.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from sealtune.errors import IntegrityError, OffloadError
from sealtune.offload import passes
from sealtune.offload.accelerator import Accelerator
from sealtune.offload.frozen import FrozenGroup
from sealtune.offload.pads import PadSource

_READ = {torch.float32, torch.bfloat16}  # what passes read as it is


@dataclass
class Link:
    """What all groups of a session share.

    Attributes:
        accelerator: who multiplies.
        pads: who makes masks; ``None`` sends codes without them (``insecure-none``).
        seconds: running totals, added to here: ``accelerator`` (waiting for it), ``pads`` (making
            their products, or waiting for them) and ``passes`` (over codes).
        lie: the first wrong answer. No answer is taken after it: see ``prime_check``.
    """

    accelerator: Accelerator
    pads: PadSource | None
    seconds: dict[str, float]
    lie: IntegrityError | None = None


class GroupChannel:
    """One group of linear layers: its calls and its checks.

    Args:
        frozen: what the enclave knows of the group's weights.
        link: to the accelerator.

    Attributes:
        bias: float32 [N], added to forward products, or None.
    """

    def __init__(self, frozen: FrozenGroup, link: Link) -> None:
        self.frozen = frozen
        self.bias: Tensor | None = None
        self._link = link

    def multiply(self, values: Tensor | tuple[Tensor, ...], *, backward: bool) -> Tensor:
        """``values @ W^T + bias`` (forward) or ``values @ W`` (backward), W with its scales.

        Args:
            values: float [T, K] (forward) or [T, N] (backward), or parts that lie side by side.

        Returns:
            [T, N] or [T, K], bfloat16 if all values are, else float32.

        Raises:
            IntegrityError: the accelerator lied, in this call or in an earlier one.
            AcceleratorLostError: it has gone.
            OffloadError: NaN or infinity; no pads.
        """
        link, frozen, name = self._link, self.frozen, self.frozen.spec.name
        if link.lie is not None:
            raise link.lie
        parts = _readable((values,) if isinstance(values, Tensor) else values)
        check, rows = frozen.checks[backward], parts[0].shape[0]
        pad, suspect = None, ""
        if link.pads is not None:
            pad, suspect = link.pads.take(name, rows, backward=backward), link.pads.suspect
        call = link.accelerator.call(name, rows, backward=backward)
        if pad is not None:
            pad.key.spend()
        start = perf_counter()
        encoded = passes.encode_mask(
            parts,
            frozen.budgets[backward],
            None if pad is None else pad.key,
            check.right,
            call.codes,
            scale=frozen.scale if backward else None,
        )
        sent = perf_counter()
        call.submit()
        submitted = perf_counter()
        product = None if pad is None else pad.product()  # while the accelerator is at work
        made = perf_counter()
        answer = call.result()
        answered = perf_counter()
        try:
            result = passes.unmask_decode(
                answer,
                product,
                None if pad is None else pad.blind,
                encoded,
                None if backward else frozen.scale,
                check.left,
                f"{name} {'backward' if backward else 'forward'}{suspect}",
                dtype=parts[0].dtype,
                bias=None if backward else self.bias,
            )
        except IntegrityError as error:
            link.lie = error
            raise
        link.seconds["pads"] += made - submitted
        link.seconds["accelerator"] += (submitted - sent) + (answered - made)
        link.seconds["passes"] += (sent - start) + (perf_counter() - answered)
        return result


def _readable(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """In one dtype that passes read as it is."""
    dtypes = {part.dtype for part in parts}
    if len(dtypes) == 1 and dtypes <= _READ:
        return parts
    return tuple(part.to(torch.float32) for part in parts)


class _MaskedProduct(torch.autograd.Function):
    """Autograd node of one group call: x [T, K] -> one y [T, N] for each member, with scales."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channel: GroupChannel) -> tuple[Tensor, ...]:
        ctx.channel = channel
        y = channel.multiply(x, backward=False)
        return torch.split(y, list(channel.frozen.spec.out_features), dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        channel: GroupChannel = ctx.channel
        return channel.multiply(grads, backward=True), None


class SharedInput:
    """Hands each member of a group its part of one shared product.

    The first member called with an input triggers the call; the others must come with the same
    tensor, as the slice plan saw them do. A member that has had its part begins a product anew: so
    a recomputation (activation checkpointing) may end wherever it likes.
    """

    def __init__(self, channel: GroupChannel) -> None:
        self.channel = channel
        self._input: tuple[Tensor, int] | None = None
        self._parts: dict[int, Tensor] = {}

    def output(self, x: Tensor, member: int) -> Tensor:
        """Part of member number ``member``: [..., N_member], see ``GroupChannel.multiply``."""
        spec = self.channel.frozen.spec
        if member not in self._parts:
            flat = x.reshape(-1, spec.in_features)
            parts = cast(
                tuple[Tensor, ...],
                _MaskedProduct.apply(flat, self.channel),  # type: ignore[no-untyped-call]
            )
            self._input = x, _version(x)
            self._parts = {i: part.view(*x.shape[:-1], -1) for i, part in enumerate(parts)}
        elif self._input is None or self._input[0] is not x or self._input[1] != _version(x):
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


def _version(x: Tensor) -> int:
    """How often it was changed in place."""
    return 0 if x.is_inference() else x._version


class MaskedLinear(nn.Module):
    """Drop-in for a frozen linear layer; holds neither weight nor bias.

    Args:
        shared: the group that computes the product.
        member: which part of it this layer is.
    """

    def __init__(self, shared: SharedInput, member: int) -> None:
        super().__init__()
        self._shared = shared
        self._member = member
        self.in_features = shared.channel.frozen.spec.in_features
        self.out_features = shared.channel.frozen.spec.out_features[member]

    def forward(self, x: Tensor) -> Tensor:
        """float [..., K] -> [..., N]."""
        return self._shared.output(x, self._member).to(x.dtype)


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
