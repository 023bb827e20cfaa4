"""Which leading blocks make the same of a text in every step, so that one time is enough.

Trust domain: none of its own; it handles public structure only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sealtune.errors import UnsupportedModelError
from sealtune.model.partial import refuse_uncuttable
from sealtune.model.tasks import base_model
from sealtune.plan.trace import forward_on_meta

_OF_HEADS = ("summary_", "classifier_")  # what drops values behind the blocks


def steady_blocks(tuned: Any, blocks: nn.ModuleList) -> int:
    """How many blocks lie below the first that is tuned; 0 where what they make does not stay the
    same (dropout), or later blocks need more of them than their output.

    Args:
        tuned: a model on ``meta``, with what is tuned on it.
        blocks: its decoder blocks.
    """
    config = base_model(tuned).config
    try:
        refuse_uncuttable(config)
    except UnsupportedModelError:
        return 0
    for key, value in config.to_dict().items():
        drops = "drop" in key and not key.startswith(_OF_HEADS)
        if drops and isinstance(value, int | float) and value > 0:
            return 0
    outputs: list[object] = []
    hooks = [
        block.register_forward_hook(lambda _module, _args, output: outputs.append(output))
        for block in blocks
    ]
    forward_on_meta(tuned)
    for hook in hooks:
        hook.remove()
    steady = 0
    for output in outputs:
        if not isinstance(output, Tensor):  # the blocks after it expect another form
            return 0
        if output.requires_grad:
            break
        steady += 1
    return steady
