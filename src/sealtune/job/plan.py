"""The slice plan: which module runs where, and why. Making one is in ``sealtune.plan``.

The plan is public, part of the job id, and the only thing that decides placement.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field

Placement = Literal["enclave", "masked", "plain", "owner"]
Role = Literal["embedding", "block", "linear", "other"]
Law = Literal["constant", "uniform", "normal", "orthogonal"]
Size = Annotated[int, Field(ge=0, lt=2**31)]  # RFC 8785 holds no integer beyond 2^53


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModulePlan(_Frozen):
    """Where one module runs.

    Attributes:
        name: dotted name in the Hugging Face model, such as ``model.layers.0.self_attn.q_proj``.
        kind: its class name.
        role: what it is to the plan.
        placement: ``enclave``, ``masked`` (on the accelerator, codes masked), ``plain`` (on the
            accelerator, in the clear), or ``owner`` (on the data owner's machine; split jobs).
        reason: one sentence for people.
    """

    name: str
    kind: str
    role: Role
    placement: Placement
    reason: str


class LinearGroup(_Frozen):
    """Frozen linear layers that share one input, so one pad and one call serve all of them.

    Attributes:
        name: name of the first member.
        members: dotted module names, in call order.
        in_features: K.
        out_features: N of each member.
        backward: whether a gradient flows to the input, so that ``W^T g`` is needed too.
    """

    name: str
    members: tuple[str, ...]
    in_features: Size
    out_features: tuple[Size, ...]
    backward: bool


class FirstValue(_Frozen):
    """How a trainable tensor begins; ``job.first_values`` draws it.

    Attributes:
        law: ``constant``: all are ``scale``; ``uniform``: within ``scale`` of 0; ``normal``: with
            mean 0 and deviation ``scale``; ``orthogonal``: LoRA's factors, whose product is zero.
        scale: of the law.
    """

    law: Law
    scale: Annotated[float, Field(allow_inf_nan=False)]


class Backbone(_Frozen):
    """The int8 weights file that enclave and accelerator both read.

    Attributes:
        path: safetensors file; its location is a convenience and no part of the plan's digest.
        tensors: SHA-256 (hex) of the raw bytes of each tensor.
    """

    path: str
    tensors: dict[str, str]


class SlicePlan(_Frozen):
    """Placement of every module of one model under one protection level.

    Attributes:
        architecture: class name of the Hugging Face model.
        protect: protection level of the job, or ``split``.
        blocks: number of decoder blocks.
        cut: how many leading blocks run at the data owner; None unless the job is split.
        prefix_blocks: how many leading blocks run whole and plain on the accelerator.
        steady_blocks: how many leading blocks make the same of a text in every step; a site runs
            each of its texts through them once, and keeps the result sealed.
        modules: placement of each module that holds parameters or computes.
        groups: the linear layers that are called on the accelerator.
        trainable: PEFT state-dict name -> shape of every trainable tensor.
        personal: those of them that stay in each site's enclave; the server gets the others alone.
        first_values: the names of all -> how the tensor begins; empty in a split job, whose server
            draws them itself.
        backbone: the int8 weights.
    """

    architecture: str
    protect: str
    blocks: Size
    cut: Size | None = None
    prefix_blocks: Size
    steady_blocks: Size = 0
    modules: tuple[ModulePlan, ...]
    groups: tuple[LinearGroup, ...]
    trainable: dict[str, tuple[Size, ...]]
    personal: tuple[str, ...] = ()
    first_values: dict[str, FirstValue] = {}
    backbone: Backbone

    @property
    def shared(self) -> dict[str, tuple[int, ...]]:
        """What ``trainable`` says of the tensors that are sent and aggregated."""
        return {name: shape for name, shape in self.trainable.items() if name not in self.personal}

    @property
    def quantised(self) -> tuple[str, ...]:
        """Dotted names of all layers in the int8 file, whether they are called from it or not."""
        names = (name.removesuffix(".weight") for name in sorted(self.backbone.tensors))
        return tuple(name for name in names if not name.endswith(".scale"))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the plan's RFC 8785 bytes, without the backbone's path."""
        content = self.model_dump(mode="json", exclude={"backbone": {"path"}})
        return hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def plain_name(name: str) -> str:
    """A module's or parameter's name in the plain model, whatever PEFT has wrapped around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")
