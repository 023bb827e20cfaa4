"""The slice plan of a job under secure aggregation: the whole model runs at each data owner.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from sealtune.job.plan import Backbone, ModulePlan, Role, SlicePlan, plain_name
from sealtune.job.spec import Job
from sealtune.model.load import load_model
from sealtune.model.structure import find_blocks
from sealtune.model.trainable import trainable_state
from sealtune.plan.trace import block_index, is_listed
from sealtune.tuning.apply import apply_tuning, first_values

PROTECT = "secure-aggregation"


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = False) -> SlicePlan:
    """Plan the model.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: without effect: no int8 file is needed.

    Raises:
        UnsupportedModelError, TargetModulesError: the tuning does not fit the model.
    """
    model = load_model(job.model, num_labels, meta=True)
    blocks_name, blocks = find_blocks(model)
    tuned = apply_tuning(model, job.tuning, job.model.task, job.job.seed)
    embedding = model.get_input_embeddings()
    modules = []
    for path, module in tuned.named_modules():
        if not is_listed(path, module, blocks_name, len(blocks)):
            continue
        name = plain_name(path)
        role: Role = "embedding" if module is embedding else "other"
        reason = "at the data owner, who trusts this machine"
        if block_index(name, blocks_name) >= 0:
            role = "block"
            reason = "at the data owner; of its tuned tensors only masked updates leave"
        elif any(p.requires_grad for p in module.parameters()):
            reason = "at the data owner; only masked updates of it leave"
        modules.append(
            ModulePlan(
                name=name, kind=type(module).__name__, role=role, placement="owner", reason=reason
            )
        )
    return SlicePlan(
        architecture=type(model).__name__,
        protect=PROTECT,
        blocks=len(blocks),
        prefix_blocks=0,
        modules=tuple(modules),
        groups=(),
        trainable={name: tuple(t.shape) for name, t in trainable_state(tuned).items()},
        first_values=first_values(tuned, job.tuning),
        backbone=Backbone(path="", tensors={}),
    )


def first_block(_job: Job, _blocks: int) -> int:
    """Every block is tuned, unless the tuning names some."""
    return 0
