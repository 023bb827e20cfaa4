"""The order in which a site's examples are trained on: the same on every run, little padding.

A site walks through its data epoch by epoch, and each round goes on where the last one ended. Which
batch comes at which step follows from seed, site and step number alone, so nothing has to be stored
to resume at a round.

Trust domain: client enclave.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sealtune.model.seeds import generator

_POOL = 8  # batches whose examples are sorted by length together


def epoch_batches(lengths: Sequence[int], size: int, *key: object) -> list[list[int]]:
    """One epoch: every full batch of example numbers, shuffled, similar lengths together.

    Args:
        lengths: tokens of each example.
        size: examples per batch; at most ``len(lengths)``.
        key: seed parts; another key gives another order.

    Returns:
        ``len(lengths) // size`` batches. The few examples left over change with the key.
    """
    source = generator("epoch", *key)
    order = torch.randperm(len(lengths), generator=source).tolist()
    order = order[: len(order) // size * size]
    batches = []
    for start in range(0, len(order), _POOL * size):
        pool = sorted(order[start : start + _POOL * size], key=lambda i: lengths[i])
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=source).tolist()]


def step_batches(
    lengths: Sequence[int], size: int, first: int, count: int, *key: object
) -> list[list[int]]:
    """Batches of the steps ``first`` to ``first + count - 1``, counted from the start of the job.

    Args:
        lengths: tokens of each example; not empty.
        size: examples per batch; a smaller data set gives smaller batches.
        first: number of the first step, from 0.
        count: how many.
        key: seed parts, such as seed and site.
    """
    size = min(size, len(lengths))
    per_epoch = len(lengths) // size
    batches: list[list[int]] = []
    while len(batches) < count:
        epoch, offset = divmod(first + len(batches), per_epoch)
        batches += epoch_batches(lengths, size, *key, epoch)[offset:]
    return batches[:count]


def sorted_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """All examples in batches of similar length, for evaluation; the last one may be smaller."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[i : i + size] for i in range(0, len(order), size)]
