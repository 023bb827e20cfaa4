"""The frozen int8 backbone as the enclave sees it: public weights, trusted only after a hash check.

Trust domain: client enclave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sealtune.errors import ModelError
from sealtune.job.plan import Backbone, LinearGroup
from sealtune.offload.codes import Budget
from sealtune.offload.wire import tensor_bytes


class FrozenGroup:
    """Weights of the linear layers that share one input.

    Attributes:
        weight: int8 [N, K], members stacked.
        scale: float32 [N], one step per output channel.
        budgets: by ``backward``: code sizes for ``W x`` and ``W^T g``.
    """

    def __init__(self, spec: LinearGroup, weight: Tensor, scale: Tensor) -> None:
        self.spec = spec
        self.weight = weight
        self.scale = scale
        outer, inner = weight.shape
        square = weight.to(torch.float64).square_()  # largest 2-norm of a row, and of a column
        self.budgets = {
            False: Budget(float(square.sum(1).max().sqrt()), inner),
            True: Budget(float(square.sum(0).max().sqrt()), outer),
        }

    def matrix(self, backward: bool) -> Tensor:
        """The matrix that code rows are multiplied with: int8 [K, N], or [N, K] backward."""
        return self.weight if backward else self.weight.t()


def load_frozen(backbone: Backbone, groups: Sequence[LinearGroup]) -> Mapping[str, FrozenGroup]:
    """Read the weights of ``groups`` and check every byte against the plan's digests.

    Raises:
        ModelError: the file is missing, incomplete, or not the one in the plan.
    """
    return {
        group.name: FrozenGroup(
            group,
            torch.cat([_tensor(backbone, f"{m}.weight") for m in group.members]),
            torch.cat([_tensor(backbone, f"{m}.scale") for m in group.members]),
        )
        for group in groups
    }


def _tensor(backbone: Backbone, name: str) -> Tensor:
    path = Path(backbone.path)
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name).clone()  # a private copy: the file may change
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot read {name} from the int8 backbone {path}: {error}",
            hint="delete the file; it is made anew from the model at the next start",
        ) from error
    if hashlib.sha256(tensor_bytes(tensor)).hexdigest() != backbone.tensors.get(name):
        raise ModelError(
            f"{name} in {path} is not the tensor that the slice plan names",
            hint="somebody changed the backbone file: delete it and start again",
        )
    return tensor
