"""An enclave's whole dealing with one accelerator: install masked layers, make pads, keep time.

Trust domain: client enclave.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor, nn

from sealtune import sockets
from sealtune.errors import ModelError, OffloadError
from sealtune.job.plan import SlicePlan, plain_name
from sealtune.offload import kernels
from sealtune.offload.accelerator import Accelerator
from sealtune.offload.frozen import load_frozen
from sealtune.offload.masked import (
    GroupChannel,
    MaskedLinear,
    PassThrough,
    PlainPrefix,
    SharedInput,
)
from sealtune.offload.pads import PadStream
from sealtune.offload.remote import RemoteAccelerator


class OffloadSession:
    """Masked products for one model in one enclave.

    Args:
        accelerator: who multiplies; untrusted.
        plan: what is offloaded.
        integrity_bits: a wrong product is missed with probability at most 2^-bits.
        owner: job and site, to separate pad key streams.

    Attributes:
        arithmetic: how this processor multiplies exactly, see ``kernels``.

    Raises:
        OffloadError: it does not.
        ModelError: the int8 backbone is not the one in the plan.

    Usage::

        with OffloadSession.connect("unix:/run/a.sock", plan, integrity_bits=40, owner="x") as s:
            s.install(peft_model)
            peft_model(**batch).loss.backward()  # its pads are made when the forward pass begins
    """

    def __init__(
        self, accelerator: Accelerator, plan: SlicePlan, *, integrity_bits: int, owner: str
    ) -> None:
        self.arithmetic = kernels.arithmetic(torch.device("cpu"))
        self.plan = plan
        self.seconds: dict[str, float] = {"pads": 0.0, "accelerator": 0.0}
        self._accelerator = accelerator
        masked = plan.protect != "insecure-none"
        pads = PadStream(owner) if masked else None
        self._shared = {
            name: SharedInput(GroupChannel(group, accelerator, pads, integrity_bits, self.seconds))
            for name, group in load_frozen(plan.backbone, plan.groups).items()
        }

    @classmethod
    def connect(
        cls,
        address: str,
        plan: SlicePlan,
        *,
        integrity_bits: int,
        owner: str,
        patience: float = 0.0,
    ) -> Self:
        """Open a session with the accelerator process at ``unix:/path`` or ``tcp:host:port``.

        Args:
            patience: seconds that it may still need before it listens.

        Raises:
            AcceleratorLostError: nothing answers there.
            OffloadError: plain activations would cross a network.
            ModelError: the int8 backbone is not the one in the plan.
        """
        if plan.prefix_blocks and sockets.parse(address).scheme != "unix":
            raise OffloadError(
                f"with protect = 'adapter' token ids and activations go to {address} in the plain",
                hint="run the accelerator on the enclave's own machine (unix:/path), or set "
                "protect = 'adapter+data'",
            )
        accelerator = RemoteAccelerator.connect(address, plan.groups, patience=patience)
        return cls(accelerator, plan, integrity_bits=integrity_bits, owner=owner)

    def install(self, model: nn.Module) -> None:
        """Swap the planned frozen layers of ``model`` (plain or PEFT) for masked ones, in place.

        Each forward pass of ``model`` begins a step of its own, with pads for exactly its rows, and
        for a backward pass if gradients are enabled. A second pass before the backward pass of the
        first, or a recomputation, finds no pads and is refused.

        Raises:
            ModelError: the model lacks a module that the plan names, or something hangs at one
                that would be lost.
        """
        by_name = {plain_name(name): name for name, _ in model.named_modules()}
        for shared in self._shared.values():
            for index, member in enumerate(shared.channel.frozen.spec.members):
                path = _existing(by_name, member)
                layer = model.get_submodule(path)
                if layer._forward_hooks or any(True for _ in layer.children()):
                    raise ModelError(
                        f"something hangs at {path} that a masked layer would do without",
                        hint="to be masked, a tuned layer must be wrapped, as LoRA does",
                    )
                bias = getattr(layer, "bias", None)
                frozen_bias = None if bias is None else bias.detach().to(torch.float32).clone()
                model.set_submodule(path, MaskedLinear(shared, index, frozen_bias))
        plain = [m for m in self.plan.modules if m.placement == "plain"]
        for module in plain if self.plan.prefix_blocks else ():
            path = _existing(by_name, module.name)
            if module.role == "embedding":
                model.set_submodule(path, PlainPrefix(self._accelerator, self.seconds))
            elif module.role == "block":
                model.set_submodule(path, PassThrough())
        model.register_forward_pre_hook(self._begin_pass, with_kwargs=True)

    def _begin_pass(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.begin_step(_rows(args, kwargs), backward=torch.is_grad_enabled())

    def begin_step(self, tokens: int, *, backward: bool) -> None:
        """Make the pads of one step, and throw away what the last one left.

        A forward pass does it by itself; for products without one see ``multiply``.

        Args:
            tokens: B * T of the batch, padding included.
            backward: whether a backward pass follows.
        """
        start = perf_counter()
        for shared in self._shared.values():
            shared.reset()
            shared.channel.discard()
            shared.channel.prepare(tokens, backward=False)
            if backward and shared.channel.frozen.spec.backward:
                shared.channel.prepare(tokens, backward=True)
        self.seconds["pads"] += perf_counter() - start

    def multiply(self, group: str, values: Tensor, *, backward: bool = False) -> Tensor:
        """One product by itself, for tests and benchmarks (see ``GroupChannel.multiply``)."""
        return self._shared[group].channel.multiply(values, backward=backward)

    def close(self) -> None:
        """End the connection."""
        self._accelerator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Token rows of a forward pass: B * T of ids [B, T], or of embeddings [B, T, D]."""
    given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    source = next((value for value in given if isinstance(value, Tensor)), None)
    if source is None:
        raise OffloadError("a masked model was called without input_ids or inputs_embeds")
    return source.numel() // (source.shape[-1] if source.is_floating_point() else 1)


def _existing(by_name: dict[str, str], name: str) -> str:
    path = by_name.get(name)
    if path is None:
        raise ModelError(
            f"the model has no module {name}, which the slice plan names",
            hint="the plan was made for another model: run `sealtune plan` again",
        )
    return path
