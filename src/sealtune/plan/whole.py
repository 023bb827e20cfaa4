"""The slice plan of a job whose model runs whole at each site: in its enclave, on the processor or
on the enclave's GPU; under secure aggregation at the data owner.

Weights are those that are published: without masks there is no need for int8, which only rounds,
and the adapter is used on the published ones in the end. So a run here trains what plain PEFT does.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from torch import nn

from sealtune.job.compute_rules import GPU
from sealtune.job.plan import Backbone, ModulePlan, Placement, Role, SlicePlan, plain_name
from sealtune.job.spec import Job
from sealtune.model.trainable import trainable_state
from sealtune.plan.federated import tuned_structure
from sealtune.plan.personal import personal_tensors
from sealtune.plan.steady import steady_blocks
from sealtune.plan.trace import block_index, is_listed
from sealtune.tuning.apply import first_values

OWNED = "secure-aggregation"


def make_plan(job: Job, num_labels: int | None, *, backbone: bool = False) -> SlicePlan:
    """Plan the model.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.
        backbone: without effect: no int8 file is needed.

    Raises:
        UnsupportedModelError, TargetModulesError: the tuning does not fit the model.
        ConfigError: a personal part is none of this model's, or nothing is left to share.
    """
    model, tuned, blocks_name, blocks = tuned_structure(job, num_labels)
    embedding = model.get_input_embeddings()
    modules = []
    for path, module in tuned.named_modules():
        if is_listed(path, module, blocks_name, len(blocks)):
            name = plain_name(path)
            inside = block_index(name, blocks_name) >= 0
            role: Role = "embedding" if module is embedding else "block" if inside else "other"
            placement, reason = _place(job, role, module)
            kind = type(module).__name__
            modules.append(
                ModulePlan(name=name, kind=kind, role=role, placement=placement, reason=reason)
            )
    trainable = trainable_state(tuned)
    return SlicePlan(
        architecture=type(model).__name__,
        protect=job.compute or OWNED,
        blocks=len(blocks),
        prefix_blocks=0,
        steady_blocks=steady_blocks(tuned, blocks),
        modules=tuple(modules),
        groups=(),
        trainable={name: tuple(tensor.shape) for name, tensor in trainable.items()},
        personal=personal_tensors(trainable, job.aggregation.personal, blocks_name),
        first_values=first_values(tuned, job.tuning),
        backbone=Backbone(path="", tensors={}),
    )


def _place(job: Job, role: Role, module: nn.Module) -> tuple[Placement, str]:
    tuned = any(p.requires_grad for p in module.parameters())
    if job.compute is None:
        if role == "block":
            return "owner", "at the data owner; of its tuned tensors only masked updates leave"
        if tuned:
            return "owner", "at the data owner; only masked updates of it leave"
        return "owner", "at the data owner, who trusts this machine"
    where = "on its attested GPU" if job.compute == GPU else "no accelerator takes part"
    if tuned:
        return "enclave", f"in the site's enclave, and tuned; {where}"
    return "enclave", f"in the site's enclave; {where}"
