"""Tokens from cut activations: two ways to guess them, with texts that the attacker has.

    known = Known(activations, ids, first)               # of the attacker's own texts
    nearest(known, seen, first)                          # int64 [N]
    Inverter(known, embedding).guess(seen, first)

The model is public: whoever has texts of his own runs its first blocks on them, and so knows what
activations of known tokens look like, at any depth.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

_RIDGE = 1e-3  # of the number of tokens
_AT_ONCE = 256  # tokens that are compared with all others at a time


@dataclass(frozen=True)
class Known:
    """Tokens whose activations the attacker has made.

    Attributes:
        activations: float [N, D].
        ids: int64 [N], their tokens.
        first: bool [N], whether it is the first of its text: many decoders turn that one into a
            sink for attention, which looks like no other.
    """

    activations: Tensor
    ids: Tensor
    first: Tensor

    @cached_property
    def _scales(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each value, [D] each, over tokens that are no sinks."""
        inner = self.activations[~self.first].double()
        return inner.mean(0), inner.std(0).clamp_min(1e-12)

    def scaled(self, seen: Tensor) -> Tensor:
        """Activations [M, D] in units in which all values count alike, float64."""
        mean, deviation = self._scales
        return (seen.double() - mean) / deviation


def nearest(known: Known, seen: Tensor, first: Tensor) -> Tensor:
    """For each of some activations [M, D] the token of the known one with the largest cosine.

    Args:
        first: bool [M], as of ``Known``; first ones are compared with first ones.
    """
    guess = torch.zeros(len(seen), dtype=torch.int64)
    for kind in (True, False):
        mine, theirs = first == kind, known.first == kind
        if not mine.any():
            continue
        if not theirs.any():
            theirs = torch.ones_like(theirs)
        book = normalize(known.scaled(known.activations[theirs]), dim=1)
        asked = normalize(known.scaled(seen[mine]), dim=1)
        best = torch.cat([(part @ book.T).argmax(1) for part in torch.split(asked, _AT_ONCE)])
        guess[mine] = known.ids[theirs][best]
    return guess


class Inverter:
    """A linear map from activations to token embeddings, fitted by ridge regression.

    It finds tokens, too, that the attacker's own texts lack.

    Args:
        known: what it is trained on.
        embedding: the model's token embeddings, [V, D'].
    """

    def __init__(self, known: Known, embedding: Tensor) -> None:
        self._known = known
        table = embedding.float()
        self._table = normalize(table - table.mean(0), dim=1)  # [V, D']
        inner = ~known.first
        inputs = self._inputs(known.activations[inner])
        weight = torch.eye(inputs.shape[1], dtype=torch.float64) * _RIDGE * len(inputs)
        targets = self._table[known.ids[inner]].double()
        self._map = torch.linalg.solve(inputs.T @ inputs + weight, inputs.T @ targets)

    def guess(self, seen: Tensor, first: Tensor) -> Tensor:
        """The token of each activation [M, D], int64 [M]; first tokens by ``nearest``."""
        found = (self._inputs(seen) @ self._map).float()  # [M, D'], a cosine needs no length of it
        parts = torch.split(found, _AT_ONCE)
        guess = torch.cat([(part @ self._table.T).argmax(1) for part in parts])
        guess[first] = nearest(self._known, seen[first], first[first])
        return guess

    def _inputs(self, activations: Tensor) -> Tensor:
        scaled = self._known.scaled(activations)
        return torch.cat([scaled, torch.ones(len(scaled), 1, dtype=torch.float64)], dim=1)
