"""A hand-made plan of two linear groups, its backbone file, and an in-process accelerator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sealtune.accelerator.engine import Engine
from sealtune.job.plan import Backbone, LinearGroup, SlicePlan
from sealtune.model.quantise import quantise
from sealtune.offload.accelerator import Accelerator
from sealtune.offload.in_process import InProcess
from sealtune.offload.session import OffloadSession

INNER, HIDDEN = 24, 40
GROUPS = (
    LinearGroup(
        name="q", members=("q", "k"), in_features=INNER, out_features=(HIDDEN, 16), backward=True
    ),
    LinearGroup(name="o", members=("o",), in_features=HIDDEN, out_features=(INNER,), backward=True),
)


class Toy(nn.Module):
    """Two layers on one input, then a third; a nonlinear step between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.q = nn.Linear(INNER, HIDDEN)
        self.k = nn.Linear(INNER, 16, bias=False)
        self.o = nn.Linear(HIDDEN, INNER)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float [..., INNER] -> [..., INNER]."""
        q, k = self.q(x), self.k(x)
        return self.o(torch.tanh(q)) * k.square().mean(-1, keepdim=True)


@dataclass
class Setup:
    """Everything a test needs: the W8 reference model and what the plan says of it."""

    plan: SlicePlan
    reference: Toy
    engine: Engine

    def session(self, multiplier: object | None = None, **options: Any) -> OffloadSession:
        """A session with what multiplies in the place of the honest engine, or with it."""
        given: Any = multiplier or self.engine
        near = InProcess(given, self.plan.groups)
        return OffloadSession(near, self.plan, integrity_bits=40, owner="test", **options)


def product(
    accelerator: Accelerator, group: str, codes: torch.Tensor, *, backward: bool
) -> torch.Tensor:
    """One call, from its codes to a private copy of its result."""
    call = accelerator.call(group, codes.shape[0], backward=backward)
    call.codes.copy_(codes)
    call.submit()
    return call.result().clone()


def make_setup(folder: Path, protect: str = "adapter+data") -> Setup:
    """Quantise a Toy model, write its backbone, and plan it."""
    toy = Toy()
    tensors = {}
    for name in ("q", "k", "o"):
        layer = toy.get_submodule(name)
        codes, scale = quantise(layer.weight)
        layer.weight.data = codes.float() * scale[:, None]
        tensors |= {f"{name}.weight": codes, f"{name}.scale": scale}
    path = folder / "backbone.safetensors"
    save_file(tensors, path)
    digests = {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in tensors.items()}
    plan = SlicePlan(
        architecture="Toy",
        protect=protect,
        blocks=1,
        prefix_blocks=0,
        modules=(),
        groups=GROUPS,
        trainable={},
        backbone=Backbone(path=str(path), tensors=digests),
    )
    return Setup(plan, toy.requires_grad_(False), Engine(path, [g.model_dump() for g in GROUPS]))
