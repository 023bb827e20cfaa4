"""The frozen int8 backbone as the enclave sees it: public weights, trusted only after a hash check.

They are read once, in pieces, past their digests; what stays of them are budgets and check vectors.
The weights themselves stay only where the enclave makes the pads' products.

Trust domain: client enclave.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sealtune.errors import ModelError
from sealtune.job.plan import Backbone, LinearGroup
from sealtune.offload.codes import Budget
from sealtune.offload.prime_check import CheckVectors, VectorMaker
from sealtune.offload.wire import tensor_bytes

_PIECE = 2**20  # entries that are looked at in float64 at one time: 8 MiB


@dataclass(frozen=True)
class FrozenGroup:
    """What the enclave knows of the linear layers that share one input.

    Attributes:
        spec: the group in the slice plan.
        scale: float32 [N], one step per output channel; members stacked.
        budgets: by ``backward``: code sizes for ``W x`` and ``W^T g``.
        checks: by ``backward``: vectors that check these products.
        weight: int8 [N, K], members stacked; None if it was not to be kept.
    """

    spec: LinearGroup
    scale: Tensor
    budgets: Mapping[bool, Budget]
    checks: Mapping[bool, CheckVectors]
    weight: Tensor | None

    @classmethod
    def read(
        cls,
        spec: LinearGroup,
        scale: Tensor,
        pieces: Iterator[Tensor],
        *,
        integrity_bits: int,
        keep: bool,
    ) -> FrozenGroup:
        """Look at a group's weights once.

        Args:
            scale: float32 [N].
            pieces: int8 [n, K] each, together the stacked rows.
            integrity_bits: exponent of the check's bound.
            keep: whether the weights stay.
        """
        outer, inner = sum(spec.out_features), spec.in_features
        maker = VectorMaker(outer, inner, integrity_bits)
        weight = torch.empty((outer, inner), dtype=torch.int8) if keep else None
        row_square, col_squares, start = 0.0, torch.zeros(inner, dtype=torch.float64), 0
        for piece in pieces:
            wide = piece.to(torch.float64)
            maker.add(start, wide)
            square = wide.square_()
            row_square = max(row_square, float(square.sum(1).max()))
            col_squares += square.sum(0)
            if weight is not None:
                weight[start : start + len(piece)] = piece
            start += len(piece)
        norms = {False: row_square**0.5, True: float(col_squares.max()) ** 0.5}
        return cls(
            spec,
            scale,
            {way: Budget(norms[way], outer if way else inner) for way in norms},
            {way: maker.vectors(backward=way) for way in norms},
            weight,
        )

    def shape(self, *, backward: bool) -> tuple[int, int]:
        """``(columns of the codes, columns of the result)``."""
        outer, inner = sum(self.spec.out_features), self.spec.in_features
        return (outer, inner) if backward else (inner, outer)


def load_frozen(
    backbone: Backbone, groups: Sequence[LinearGroup], *, integrity_bits: int, keep_weights: bool
) -> Mapping[str, FrozenGroup]:
    """Read the weights of ``groups`` and check every byte against the plan's digests.

    Args:
        integrity_bits: exponent of the check's bound.
        keep_weights: for pads that are made here.

    Raises:
        ModelError: the file is missing, incomplete, or not the one in the plan.
        OffloadError: a matrix leaves too few bits for codes.
    """

    def pieces(group: LinearGroup) -> Iterator[Tensor]:
        for member, outer in zip(group.members, group.out_features, strict=True):
            yield from _stream(backbone, f"{member}.weight", (outer, group.in_features), torch.int8)

    def scale(group: LinearGroup) -> Tensor:
        members = zip(group.members, group.out_features, strict=True)
        parts = (_stream(backbone, f"{m}.scale", (n,), torch.float32) for m, n in members)
        return torch.cat([piece for part in parts for piece in part])

    return {
        group.name: FrozenGroup.read(
            group,
            scale(group),
            pieces(group),
            integrity_bits=integrity_bits,
            keep=keep_weights,
        )
        for group in groups
    }


def _stream(
    backbone: Backbone, name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Iterator[Tensor]:
    """A tensor's rows in private copies (the file may change), all of them before a wrong digest.

    The file is opened for each tensor anew: what it has mapped of others is let go.
    """
    path = Path(backbone.path)
    digest = hashlib.sha256()
    step = max(1, _PIECE // max(1, math.prod(shape[1:])))
    starts = accumulate([step] * ((shape[0] - 1) // step), initial=0)
    try:
        with safe_open(path, framework="pt") as file:
            source = file.get_slice(name)
            if tuple(source.get_shape()) != shape:
                raise _other(backbone, name)
            for start in starts:
                piece: Tensor = source[start : min(start + step, shape[0])].clone()
                if piece.dtype != dtype:
                    raise _other(backbone, name)
                digest.update(tensor_bytes(piece))
                yield piece
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot read {name} from the int8 backbone {path}: {error}",
            hint="delete the file; it is made anew from the model at the next start",
        ) from error
    if digest.hexdigest() != backbone.tensors.get(name):
        raise _other(backbone, name)


def _other(backbone: Backbone, name: str) -> ModelError:
    return ModelError(
        f"{name} in {backbone.path} is not the tensor that the slice plan names",
        hint="somebody changed the backbone file: delete it and start again",
    )
