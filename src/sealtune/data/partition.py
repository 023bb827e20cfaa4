"""Deal rows out to sites, each row exactly once, the same way in every process.

All randomness is numpy's PCG64 seeded with (job seed, purpose): reproducible, not secret.

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sealtune.errors import DataError

Indices = NDArray[np.int64]
Part = Literal["train", "test"]

ATTEMPTS = 1000  # draws of Dirichlet shares before "some site is always empty" is believed
# purposes, so that streams never overlap
_SHARES, _TRAIN, _TEST, _FEWER_TEST, _FEWER_TRAIN = range(5)
_FEWER: Mapping[Part, int] = {"train": _FEWER_TRAIN, "test": _FEWER_TEST}


def partition(
    train: Sequence[str],
    test: Sequence[str],
    sites: int,
    *,
    scheme: Literal["dirichlet", "label"],
    alpha: float,
    seed: int,
) -> tuple[list[Indices], list[Indices]]:
    """Deal pooled training and test rows out to ``sites`` sites.

    ``dirichlet`` draws, for each class, the sites' shares from Dirichlet(alpha, ..., alpha): small
    alpha, different hospitals; large alpha, equal ones (Hsu et al., arXiv 1909.06335). Training
    and test rows use the same shares, so a site is tested on the mixture that it trains on. Shares
    that leave a site without rows are drawn again. ``label`` gives whole classes, round-robin.

    Args:
        train: label of each training row.
        test: label of each test row.

    Returns:
        For each site its row numbers (from 0, ascending), in ``train`` and in ``test``.

    Raises:
        DataError: some site would have no rows whatever is drawn.
    """
    classes = {label: k for k, label in enumerate(sorted({*train, *test}))}
    coded = [_coded(rows, classes) for rows in (train, test)]
    if min(len(train), len(test)) < sites:
        kind, count = ("training", len(train)) if len(train) < sites else ("test", len(test))
        raise DataError(
            f"{count} {kind} rows cannot be dealt out to {sites} sites",
            hint="use fewer sites or more rows" + _row_limit(kind),
        )
    whole = scheme == "label"
    for attempt in range(1 if whole else ATTEMPTS):
        draw = _generator(seed, _SHARES, attempt)
        if whole:
            shares = np.eye(sites)[np.arange(len(classes)) % sites]
        else:
            shares = draw.dirichlet(np.full(sites, alpha), size=len(classes))
        if not np.isfinite(shares).all():
            continue
        dealt = [
            deal(rows, shares, _generator(seed, purpose, attempt))
            for rows, purpose in zip(coded, (_TRAIN, _TRAIN if whole else _TEST), strict=True)
        ]
        if all(len(rows) for part in dealt for rows in part):
            return dealt[0], dealt[1]
    if whole:
        raise DataError(
            f"{len(classes)} classes dealt out whole leave one of the {sites} sites without "
            "training or test rows",
            hint="use fewer sites, or sites.partition = 'dirichlet'",
        )
    raise DataError(
        f"no draw of {ATTEMPTS} with sites.alpha = {alpha} gave each of the {sites} sites "
        "training and test rows",
        hint="raise sites.alpha, use fewer sites or more rows" + _row_limit("test"),
    )


def deal(rows: Indices, shares: NDArray[np.float64], draw: np.random.Generator) -> list[Indices]:
    """Shuffle the rows of each class and cut them by that class's shares.

    Args:
        rows: (R,) class number of each row.
        shares: (C, S), each line adds up to 1.

    Returns:
        S ascending arrays of row numbers; together they hold each of 0..R-1 exactly once.
    """
    owner = np.empty(len(rows), dtype=np.int64)
    for k, share in enumerate(shares):
        members = draw.permutation(np.flatnonzero(rows == k))
        owner[members] = np.repeat(np.arange(len(share)), apportion(share, len(members)))
    return [np.flatnonzero(owner == site) for site in range(shares.shape[1])]


def apportion(shares: NDArray[np.float64], total: int) -> Indices:
    """Split ``total`` into whole numbers by ``shares`` (largest remainders; ties go to the first).

    Args:
        shares: (S,) non-negative weights, not all zero.
    """
    exact = shares / shares.sum() * total
    counts: Indices = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def subsample(labels: Sequence[str], limit: int | None, seed: int, part: Part) -> Indices:
    """Row numbers (ascending) of at most ``limit`` rows, each class in proportion.

    A test set for one number in a report does not need every row; the same rows are taken in every
    process.

    Args:
        limit: None keeps all.
        part: of the data that the rows are.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels), dtype=np.int64)
    classes = {label: k for k, label in enumerate(sorted(set(labels)))}
    coded = _coded(labels, classes)
    quota = apportion(np.bincount(coded).astype(np.float64), limit)
    draw = _generator(seed, _FEWER[part])
    drawn = [draw.permutation(np.flatnonzero(coded == k))[: quota[k]] for k in range(len(classes))]
    rows: Indices = np.sort(np.concatenate(drawn))
    return rows


def _coded(labels: Sequence[str], classes: dict[str, int]) -> Indices:
    return np.array([classes[label] for label in labels], dtype=np.int64)


def _generator(seed: int, purpose: int, attempt: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, purpose, attempt]))


def _row_limit(kind: str) -> str:
    return f"; data.max_{kind}_rows also limits the {kind} rows"
