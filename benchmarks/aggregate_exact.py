"""The rule ``exact`` against averaging merged weights: sites of ranks 4, 8 and 16 in one job.

Layers have the shapes of SmolLM2-135M's attention. Every site moves each number that it was sent as
ten steps of Adam could, at random; that is harder than training, after which sites resemble each
other. What is expected is made whole in float64: the mean of s B A over the sites, by their rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sealtune.job.first_values import draw
from sealtune.job.plan import FirstValue
from sealtune.job.settings import Settings
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.ranks import factor_pairs, first_directions
from sealtune.methods.federated.rules.exact import Exact

ROWS = {"north": 900, "south": 300, "west": 700}
RANKS = {"north": 4, "south": 8, "west": 16}
HOLDS_ALL = sum(RANKS.values())  # the rank of a mean of their products
LAYERS = {"q_proj": (576, 576), "k_proj": (192, 576), "v_proj": (192, 576), "o_proj": (576, 576)}
BLOCKS, ROUNDS, SEED = 30, 3, 1
MOVED = 10 * 1e-3  # ten steps at a learning rate of 1e-3
Matrices = list[NDArray[np.float64]]
Answer = dict[str, NDArray[np.float64]]  # a site's adapter


def measure(*, quick: bool, advance: Callable[[str], None]) -> dict[str, Any]:
    """All rounds of a job whose rank holds every direction, and of one whose rank does not.

    Args:
        quick: four blocks in place of 30.
        advance: called with what was done after each round.

    Returns:
        ``exact_err``, the largest relative error (Frobenius) where the rank holds all;
        ``factor_err``, what averaging factors gives there at best; ``rounds``, a row for each.
    """
    rows = []
    for rank in (HOLDS_ALL, max(RANKS.values())):
        before = _first(rank, 4 if quick else BLOCKS)
        for number in range(1, ROUNDS + 1):
            before, row = _round(before, rank, number)
            rows.append({"rank": rank, "round": number, **row})
            advance(f"rank {rank}, round {number}")
    whole = [row for row in rows if row["rank"] == HOLDS_ALL]
    return {
        "exact_err": max(row["error"] for row in whole),
        "factor_err": min(row["factor_error"] for row in whole),
        "rounds": rows,
    }


def _first(rank: int, blocks: int) -> Tensors:
    """A global adapter as every job's begins."""
    adapter = {}
    for block in range(blocks):
        for layer, (n, k) in LAYERS.items():
            name = f"layers.{block}.{layer}.lora_{{}}.weight"
            law = FirstValue(law="uniform", scale=k**-0.5)
            adapter[name.format("A")] = draw(law, SEED, name, (rank, k))
            adapter[name.format("B")] = np.zeros((n, rank), np.float32)
    return adapter


def _round(before: Tensors, rank: int, number: int) -> tuple[Tensors, dict[str, Any]]:
    shapes = {name: tensor.shape for name, tensor in before.items()}
    updates = {
        site: {
            name: draw(FirstValue(law="normal", scale=MOVED), number, f"{site} {name}", t.shape)
            for name, t in first_directions(before, low).items()
        }
        for site, low in RANKS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        context = RoundContext(shapes, before, _settings(rank), ROWS, 1.0, Path(folder))
        rule = Exact(context)
        for site, update in updates.items():
            rule.add(site, update, ROWS[site])
        after = rule.result()
    answers = {site: _answer(before, update, RANKS[site]) for site, update in updates.items()}
    found, merged, plain = [], [], []
    for a, b in factor_pairs(shapes).items():
        found.append(_product(after[b], after[a]))
        shares = [(answers[site], rows / sum(ROWS.values())) for site, rows in ROWS.items()]
        # what averaging merged weights adds to a frozen weight, less the scale that all share
        merged.append(np.sum([share * _product(own[b], own[a]) for own, share in shares], axis=0))
        plain.append(_product(*(_factor_mean(shares, name, shapes[name]) for name in (b, a))))
    return after, {
        "error": _relative(found, merged),
        "factor_error": _relative(plain, merged),
        "residual": context.figures["residual"],
    }


def _factor_mean(
    shares: list[tuple[Answer, float]], name: str, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The mean of one factor; what a lower rank lacks counts as 0."""
    mean = np.zeros(shape)
    for own, share in shares:
        n, k = own[name].shape
        mean[:n, :k] += share * own[name]
    return mean


def _settings(rank: int) -> Settings:
    return Settings.model_validate(
        {
            "job": {"name": "exact"},
            "model": {},
            "data": {},
            "sites": {"names": list(RANKS)},
            "tuning": {"lora": {"rank": rank, "ranks": RANKS}},
            "aggregation": {"rule": "exact"},
        }
    )


def _answer(before: Tensors, update: Tensors, rank: int) -> Answer:
    sent = first_directions(before, rank)
    return {name: sent[name].astype(np.float64) + tensor for name, tensor in update.items()}


def _product(b: NDArray[Any], a: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(b.astype(np.float64) @ a.astype(np.float64))


def _relative(found: Matrices, expected: Matrices) -> float:
    error = sum(float(np.sum((f - e) ** 2)) for f, e in zip(found, expected, strict=True))
    return float(np.sqrt(error / sum(float(np.sum(e**2)) for e in expected)))
