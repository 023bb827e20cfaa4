"""What the planners of federated jobs share: the structure of the tuned model.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from sealtune.job.spec import Job
from sealtune.model.checkpointing import compute_blocks_again
from sealtune.model.example_gradients import trainable_layers
from sealtune.model.load import load_model
from sealtune.model.structure import find_blocks
from sealtune.tuning.apply import apply_tuning


class Structure(NamedTuple):
    """A job's model on ``meta``.

    Attributes:
        model: as its files say.
        tuned: the same with what is tuned around it.
        blocks_name: dotted name of the blocks' list in ``model``.
        blocks: the decoder blocks.
    """

    model: Any
    tuned: Any
    blocks_name: str
    blocks: nn.ModuleList


def tuned_structure(job: Job, num_labels: int | None) -> Structure:
    """The model of ``job``, tuned as at every site.

    Args:
        num_labels: number of classes, for the classification head; None for other tasks.

    Raises:
        UnsupportedModelError, TargetModulesError: the tuning does not fit the model.
    """
    model = load_model(job.model, num_labels, meta=True)
    blocks_name, blocks = find_blocks(model)
    tuned = apply_tuning(model, job.tuning, job.model.task, job.job.seed)
    if job.train.checkpointing:
        compute_blocks_again(model)  # refuses where it cannot
    if job.privacy.unit == "example":
        trainable_layers(tuned)  # refuses what has no gradient of single examples
    return Structure(model, tuned, blocks_name, blocks)
