"""The slice plan: decide by a taint pass which module runs in the enclave and which outside.

The model is built on the ``meta`` device (shapes without weights), the adapter is put on, and one
forward pass is watched. What is secret spreads by itself:

* ``adapter``: a tensor is secret if it depends on a trainable parameter, which is exactly what
  autograd tracks as ``requires_grad``.
* ``adapter+data``: everything from the embedding on is secret.

The same pass shows which linear layers share an input (one pad, one call) and which need a backward
product (their input carries a gradient).

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from torch import Tensor, nn

from sealtune.errors import UnsupportedModelError
from sealtune.job.plan import (
    Backbone,
    LinearGroup,
    ModulePlan,
    Placement,
    Role,
    SlicePlan,
    plain_name,
)
from sealtune.job.spec import Job
from sealtune.model.trainable import trainable_state
from sealtune.plan.backbone import prepare_backbone
from sealtune.plan.federated import tuned_structure
from sealtune.plan.personal import personal_tensors
from sealtune.plan.steady import steady_blocks
from sealtune.plan.trace import (
    TOKENS,
    Call,
    block_index,
    by_source,
    forward_on_meta,
    is_frozen_linear,
    is_listed,
    starts_with_embedding,
)
from sealtune.tuning.apply import first_values


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = True) -> SlicePlan:
    """Plan ``job``'s model, and make the int8 backbone file if it is not there yet.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: False: leave the file out, and its digests.

    Raises:
        UnsupportedModelError: the architecture hides where data flows (named module in the text).
        ConfigError: a personal part is none of this model's, or nothing is left to share.
        TargetModulesError: the adapter's targets match nothing that is linear.
    """
    model, tuned, blocks_name, blocks = tuned_structure(job, num_labels)
    every, tainted = _watch(tuned, blocks_name, len(blocks))
    protect = job.protection.protect
    prefix = tainted if protect == "adapter" and starts_with_embedding(model, blocks) else 0
    calls = [c for c in every if block_index(c.name, blocks_name) >= prefix]
    groups = [
        LinearGroup(
            name=group[0].name,
            members=tuple(c.name for c in group),
            in_features=group[0].shape[0],
            out_features=tuple(c.shape[1] for c in group),
            backward=group[0].source.requires_grad,
        )
        for group in by_source(calls)
    ]
    linear = {c.name for c in calls}
    embedding = next(n for n, m in model.named_modules() if m is model.get_input_embeddings())
    modules = [
        _place(plain_name(name), module, protect, prefix, blocks_name, embedding, linear)
        for name, module in tuned.named_modules()
        if is_listed(name, module, blocks_name, prefix)
    ]
    return SlicePlan(
        architecture=type(model).__name__,
        protect=protect,
        blocks=len(blocks),
        prefix_blocks=prefix,
        steady_blocks=steady_blocks(tuned, blocks),
        modules=tuple(modules),
        groups=tuple(groups),
        trainable={k: tuple(v.shape) for k, v in trainable_state(tuned).items()},
        personal=personal_tensors(trainable_state(tuned), job.aggregation.personal, blocks_name),
        first_values=first_values(tuned, job.tuning),
        # all of them: the file serves every protection level
        backbone=prepare_backbone(job.model, [c.name for c in every])
        if backbone
        else Backbone(path="", tensors={}),
    )


def _watch(model: nn.Module, blocks_name: str, blocks: int) -> tuple[list[Call], int]:
    """Run once on meta tensors; return the calls inside blocks and the first tainted block."""
    calls: list[Call] = []
    first_tainted = blocks

    def watch_linear(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls.append(Call(name, module, args[0]))

        return hook

    def watch_block(index: int) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _args: object, output: object) -> None:
            nonlocal first_tainted
            hidden = output[0] if isinstance(output, tuple) else output
            if isinstance(hidden, Tensor) and hidden.requires_grad:
                first_tainted = min(first_tainted, index)

        return hook

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            name = plain_name(path)
            index = block_index(name, blocks_name)
            if index >= 0 and name == f"{blocks_name}.{index}" and not path.endswith(".base_layer"):
                hooks.enter_context(module.register_forward_hook(watch_block(index)))
            # LoRA's own matrices are linear too, but trainable, so they are not called frozen
            if index >= 0 and is_frozen_linear(module):
                hooks.enter_context(module.register_forward_pre_hook(watch_linear(name)))
        forward_on_meta(model)
    _refuse_repeated(model, calls, blocks_name)
    return calls, first_tainted


def _refuse_repeated(model: nn.Module, calls: Sequence[Call], blocks_name: str) -> None:
    """Every frozen linear layer must be called exactly once, on every token."""
    times = Counter(c.name for c in calls)
    for path, module in model.named_modules():
        name = plain_name(path)
        if block_index(name, blocks_name) < 0 or not is_frozen_linear(module):
            continue
        if times[name] != 1:
            raise UnsupportedModelError(
                f"{name} is called {times[name]} times in a forward pass, not once",
                hint="mixtures of experts and tied blocks would show data in the call pattern",
            )
    for call in calls:
        if call.source.numel() // call.source.shape[-1] != TOKENS:
            raise UnsupportedModelError(f"{call.name} does not see every token exactly once")


def _place(
    name: str,
    module: nn.Module,
    protect: str,
    prefix: int,
    blocks_name: str,
    embedding: str,
    linear: set[str],
) -> ModulePlan:
    index = block_index(name, blocks_name)
    role: Role = "embedding" if name == embedding else "other"
    placement: Placement = "enclave"
    if 0 <= index < prefix:
        role, placement = "block", "plain"
        reason = "below the first adapter: it carries no secret of this job"
    elif name == embedding and prefix:
        placement = "plain"
        reason = "token ids are the owner's, and so is this accelerator"
    elif name in linear and protect == "insecure-none":
        role, placement = "linear", "plain"
        reason = "insecure-none: its input crosses to the accelerator without a mask"
    elif name in linear:
        role, placement = "linear", "masked"
        secret = "activations of the owner's text" if protect == "adapter+data" else "the adapter"
        reason = f"frozen and linear; its input depends on {secret}, so it crosses under a pad"
    elif any(p.requires_grad for p in module.parameters()):
        reason = "trainable: the tuned parameters never leave the enclave"
    elif name == embedding:
        reason = "turns token ids into activations"
    elif index < 0 and isinstance(module, nn.Linear):
        reason = "the head stays with the labels and the loss"
    else:
        reason = "not linear, so a mask could not be taken off again"
    kind = type(module).__name__
    return ModulePlan(name=name, kind=kind, role=role, placement=placement, reason=reason)
