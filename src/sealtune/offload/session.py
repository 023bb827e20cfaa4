"""An enclave's whole dealing with one accelerator: install masked layers, make pads, keep time.

Trust domain: client enclave.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from sealtune import sockets
from sealtune.errors import ModelError, OffloadError
from sealtune.job.plan import SlicePlan, plain_name
from sealtune.offload import kernels
from sealtune.offload.accelerator import Accelerator
from sealtune.offload.enclave_pads import EnclavePads
from sealtune.offload.frozen import load_frozen
from sealtune.offload.masked import (
    GroupChannel,
    Link,
    MaskedLinear,
    PassThrough,
    PlainPrefix,
    SharedInput,
)
from sealtune.offload.pads import PadSource, PadStream
from sealtune.offload.remote import RemoteAccelerator


class OffloadSession:
    """Masked products for one model in one enclave.

    Args:
        accelerator: who multiplies; untrusted.
        plan: what is offloaded.
        integrity_bits: any wrong product of a run is missed with probability at most 2^-bits.
        owner: job and site, to separate pad key streams.
        pads: who makes pads; default: the enclave, which keeps the int8 weights for them.
        pad_budget: MiB of pads that the enclave makes ahead while it rests.

    Attributes:
        seconds: spent so far: ``accelerator`` (waiting for it), ``pads`` and ``passes`` over codes.
        arithmetic: how this processor multiplies exactly, see ``kernels``.

    Raises:
        OffloadError: it does not.
        ModelError: the int8 backbone is not the one in the plan.

    Usage::

        with OffloadSession.connect("unix:/run/a.sock", plan, integrity_bits=40, owner="x") as s:
            s.install(peft_model)
            peft_model(**batch).loss.backward()
    """

    def __init__(
        self,
        accelerator: Accelerator,
        plan: SlicePlan,
        *,
        integrity_bits: int,
        owner: str,
        pads: PadSource | None = None,
        pad_budget: int = 0,
    ) -> None:
        self.arithmetic = kernels.arithmetic(torch.device("cpu"))
        self.plan = plan
        self.seconds = dict.fromkeys(("accelerator", "pads", "passes"), 0.0)
        own_pads = pads is None and plan.protect != "insecure-none"
        frozen = load_frozen(
            plan.backbone, plan.groups, integrity_bits=integrity_bits, keep_weights=own_pads
        )
        if own_pads:
            pads = EnclavePads(PadStream(owner), frozen, pad_budget << 20, self.seconds)
        self._link = Link(accelerator, pads, self.seconds)
        self._shared = {
            name: SharedInput(GroupChannel(group, self._link)) for name, group in frozen.items()
        }

    @classmethod
    def connect(
        cls,
        address: str,
        plan: SlicePlan,
        *,
        integrity_bits: int,
        owner: str,
        pads: PadSource | None = None,
        pad_budget: int = 0,
        patience: float = 0.0,
        untrusted_shm: Path | None = None,
    ) -> Self:
        """Open a session with the accelerator process at ``unix:/path`` or ``tcp:host:port``.

        Args:
            patience: seconds that it may still need before it listens.
            untrusted_shm: folder that both see, for shared memory (see ``arena``).

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
        accelerator = RemoteAccelerator.connect(
            address, plan.groups, patience=patience, untrusted_shm=untrusted_shm
        )
        return cls(
            accelerator,
            plan,
            integrity_bits=integrity_bits,
            owner=owner,
            pads=pads,
            pad_budget=pad_budget,
        )

    def install(self, model: nn.Module) -> None:
        """Swap the planned frozen layers of ``model`` (plain or PEFT) for masked ones, in place.

        Every call of a layer has a pad of its own, so passes may follow each other in any order,
        and may be computed again for the backward pass.

        Raises:
            ModelError: the model lacks a module that the plan names, or something hangs at one
                that would be lost.
        """
        by_name = {plain_name(name): name for name, _ in model.named_modules()}
        for shared in self._shared.values():
            _replace(model, by_name, shared)
        plain = [m for m in self.plan.modules if m.placement == "plain"]
        for module in plain if self.plan.prefix_blocks else ():
            path = _existing(by_name, module.name)
            if module.role == "embedding":
                model.set_submodule(path, PlainPrefix(self._link.accelerator, self.seconds))
            elif module.role == "block":
                model.set_submodule(path, PassThrough())

    def multiply(self, group: str, values: Tensor, *, backward: bool = False) -> Tensor:
        """One product by itself, for tests and benchmarks (see ``GroupChannel.multiply``)."""
        return self._shared[group].channel.multiply(values, backward=backward)

    def rest(self, *, wait: bool = False) -> None:
        """Nothing is to be done until the next pass: time to make pads ahead (``PadSource.rest``).

        What making them took is in ``seconds`` after the next rest, or after this one if it waits.
        """
        if self._link.pads is not None:
            self._link.pads.rest(wait=wait)

    def close(self) -> None:
        """End the connection, and whoever makes pads."""
        if self._link.pads is not None:
            self._link.pads.close()
        self._link.accelerator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _replace(model: nn.Module, by_name: dict[str, str], shared: SharedInput) -> None:
    """Put masked layers in the place of a group's members; their bias goes into the product."""
    channel, spec = shared.channel, shared.channel.frozen.spec
    biases = []
    for member, name in enumerate(spec.members):
        path = _existing(by_name, name)
        layer = model.get_submodule(path)
        if layer._forward_hooks or any(True for _ in layer.children()):
            raise ModelError(
                f"something hangs at {path} that a masked layer would do without",
                hint="to be masked, a tuned layer must be wrapped, as LoRA does",
            )
        biases.append(getattr(layer, "bias", None))
        model.set_submodule(path, MaskedLinear(shared, member))
    if any(bias is not None for bias in biases):
        parts = zip(biases, spec.out_features, strict=True)
        channel.bias = torch.cat(
            [torch.zeros(n) if b is None else b.detach().to(torch.float32) for b, n in parts]
        )


def _existing(by_name: dict[str, str], name: str) -> str:
    path = by_name.get(name)
    if path is None:
        raise ModelError(
            f"the model has no module {name}, which the slice plan names",
            hint="the plan was made for another model: run `sealtune plan` again",
        )
    return path
