"""The slice plan of a split job: what runs before the cut is the data owner's, the rest the
server enclave's.

Which module is on which side is watched, not guessed: the model runs once on ``meta`` tensors, and
whatever was called before the first block of the top belongs to the bottom.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from sealtune.errors import ConfigError, Problem, UnsupportedModelError
from sealtune.job.plan import Backbone, ModulePlan, Placement, Role, SlicePlan, plain_name
from sealtune.job.spec import Job
from sealtune.model.checkpointing import compute_blocks_again
from sealtune.model.load import load_model
from sealtune.model.partial import refuse_uncuttable
from sealtune.model.structure import find_blocks
from sealtune.model.trainable import trainable_state
from sealtune.plan.trace import block_index, forward_on_meta, is_listed
from sealtune.tuning.apply import apply_tuning

PROTECT = "split"


def first_block(job: Job, blocks: int) -> int:
    """The first block at the server: the cut.

    Raises:
        ConfigError: the cut is outside the model.
    """
    return cut_at(job.split_settings.cut, blocks)


def cut_at(cut: float, blocks: int) -> int:
    """Blocks at the client, of ``blocks``.

    Args:
        cut: a number of blocks (int), or the share of them (float between 0 and 1).
        blocks: of the whole model.

    Raises:
        ConfigError: nothing would be left for one side.
    """
    number = cut if isinstance(cut, int) else max(1, round(cut * blocks))
    if not 1 <= number < blocks:
        raise ConfigError(
            "the job",
            [
                Problem(
                    "split.cut",
                    f"is {cut}, but the model has {blocks} blocks: it should be a whole number "
                    f"from 1 to {blocks - 1}, or a share of the blocks such as 0.5",
                )
            ],
        )
    return int(number)


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = False) -> SlicePlan:
    """Plan a split job's model.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: without effect: no int8 file is needed.

    Raises:
        ConfigError: the cut is outside the model, or tuned blocks run at the sites.
        UnsupportedModelError, TargetModulesError: the tuning does not fit the model.
    """
    model = load_model(job.model, num_labels, meta=True)
    blocks_name, blocks = find_blocks(model)
    cut = first_block(job, len(blocks))
    tuned = apply_tuning(model, job.tuning, job.model.task, job.job.seed, first_block=cut)
    refuse_uncuttable(model.config)
    if job.train.checkpointing:
        compute_blocks_again(model)  # refuses where it cannot
    early = _called_before(tuned, blocks_name, blocks[cut]) - _tuned_whole(tuned)
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is embedding.weight
    modules = []
    for path, module in tuned.named_modules():
        if is_listed(path, module, blocks_name, cut) and ".spf" not in path:
            name = plain_name(path)
            inside = 0 <= block_index(name, blocks_name) < cut
            role: Role = "embedding" if module is embedding else "block" if inside else "other"
            below = inside or id(module) in early
            modules.append(_place(name, module, role, below, tied and module is head))
    return SlicePlan(
        architecture=type(model).__name__,
        protect=PROTECT,
        blocks=len(blocks),
        cut=cut,
        prefix_blocks=0,
        modules=tuple(modules),
        groups=(),
        trainable={k: tuple(v.shape) for k, v in trainable_state(tuned).items()},
        backbone=Backbone(path="", tensors={}),
    )


def _called_before(model: Any, blocks_name: str, first: nn.Module) -> set[int]:
    """Ids of the modules that finish before ``first`` begins.

    Raises:
        UnsupportedModelError: a block gives out more than its hidden state.
    """
    early: set[int] = set()
    begun = False

    def begin(_module: nn.Module, _args: object) -> None:
        nonlocal begun
        begun = True

    def end(module: nn.Module, _args: object, _output: object) -> None:
        if not begun:
            early.add(id(module))

    def check(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, _args: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise UnsupportedModelError(
                    f"{name} ({type(module).__name__}) gives out a {type(output).__name__}, not "
                    "its hidden state alone, so the model cannot be cut there",
                    hint='use another decoder, or job.method = "federated-lora"',
                )

        return hook

    with ExitStack() as hooks:
        hooks.enter_context(first.register_forward_pre_hook(begin))
        for path, module in model.named_modules():
            if plain_name(path).rpartition(".")[0] == blocks_name:
                hooks.enter_context(module.register_forward_hook(check(plain_name(path))))
            hooks.enter_context(module.register_forward_hook(end))
        forward_on_meta(model)
    return early


def _tuned_whole(model: Any) -> set[int]:
    """Ids of all modules of which nothing is frozen; a prefix is made before any block runs."""
    whole = set()
    for module in model.modules():
        trained = [p.requires_grad for p in module.parameters()]
        if trained and all(trained):
            whole |= {id(part) for part in module.modules()}
    return whole


def _place(name: str, module: nn.Module, role: Role, below: bool, tied: bool) -> ModulePlan:
    if below and role == "embedding":
        reason = "turns the owner's tokens into activations"
    elif below:
        reason = "frozen, below the cut: runs once for each text"
    elif tied:
        reason = "above the cut; shares the embedding's weights"
    elif any(p.requires_grad for p in module.parameters()):
        reason = "above the cut and tuned"
    else:
        reason = "above the cut"
    placement: Placement = "owner" if below else "enclave"
    kind = type(module).__name__
    return ModulePlan(name=name, kind=kind, role=role, placement=placement, reason=reason)
