"""Table 2: shares of the heads that SPF tunes, of queries, keys and values and of the output apart.

    python benchmarks/tables.py --only table-2

One share varies, the other stays at 25 %; heads with the largest weights, as in the paper, no LoRA.
Accuracy is of ``top_jobs``, on icd10; steps are of ``top_steps``.

Keys: ``step_ratio_25`` and ``memory_ratio_25`` (SPF 25 % over LoRA's step, and over the memory of
gradients and optimizer state of all four matrices), ``one_product_step_ratio`` (SPF 25 % over the
same as two products), ``table_2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import top_steps
from page import markdown_table
from stored_jobs import Settings, Stored, stored
from top_jobs import (
    MODEL,
    QUICK,
    Place,
    TopJob,
    accuracy_cell,
    difference,
    fetch,
    size_here,
    trained,
)

TABLE = "table-2"
SHARES = (0.125, 0.25, 0.5, 0.625, 1.0)
FIXED = 0.25
SET = "icd10"
RATE = 4e-3
SEEDS = 3
_ROUNDS = 10
_LORA: dict[str, Any] = {"lora": {"rank": 8}}


def spf(qkv: float, dense: float) -> dict[str, Any]:
    """``[tuning]``."""
    return {"spf": {"qkv": qkv, "dense": dense}}


def ratios(
    place: Place, *, quick: bool = False, workers: int = 1, fresh: bool = False
) -> dict[str, Any]:
    """All jobs of the table: ``accuracy``, (qkv, dense) -> jobs of each seed; ``steps``."""
    fetch(place, (SET,))
    size, seeds = (QUICK, 1) if quick else (size_here(), SEEDS)
    table = TABLE + "-quick" * quick
    arms = {arm: spf(*arm) for arm in _arms(quick)}
    jobs = [
        TopJob(SET, tuning, seed, RATE, size)
        for seed in range(1, seeds + 1)
        for tuning in arms.values()
    ]
    done = trained(table, jobs, place, workers=workers, fresh=fresh)
    accuracy = {arm: done[i :: len(arms)] for i, arm in enumerate(arms)}
    steps = {"lora": _LORA, top_steps.FULL: None, top_steps.TWO_PRODUCTS: spf(FIXED, FIXED)}
    steps |= {_name(arm): tuning for arm, tuning in arms.items()}
    settings = {"model": MODEL, "what": "steps", "rounds": 2 if quick else _ROUNDS, "arms": steps}
    settings |= {"cut": top_steps.CUT, "batch": [top_steps.ROWS, top_steps.TOKENS]}
    run = partial(_compare, place)
    found = stored(f"{table}-steps", [settings], run, fresh=fresh)[0].figures
    return {"accuracy": accuracy, "steps": found, "size": size}


def _arms(quick: bool) -> list[tuple[float, float]]:
    shares = (FIXED, 1.0) if quick else SHARES
    every = [*((share, FIXED) for share in shares), *((FIXED, share) for share in shares)]
    return list(dict.fromkeys(every))


def _compare(place: Place, settings: Settings) -> dict[str, Any]:
    return top_steps.compare(place.model, settings["arms"], settings["rounds"], "lora")


def _name(arm: tuple[float, float]) -> str:
    return f"qkv {arm[0]:g}, dense {arm[1]:g}"


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """The keys of the JSON line."""
    steps = found["steps"]
    quarter = steps[_name((FIXED, FIXED))]
    two = steps[top_steps.TWO_PRODUCTS]["step"]
    return {
        "step_ratio_25": quarter["step"][0],
        "memory_ratio_25": round(quarter["memory"] / steps[top_steps.FULL]["memory"], 4),
        "one_product_step_ratio": round(quarter["step"][0] / two[0], 3),
        "table_2": {
            _name(arm): sum(job.figures["accuracy"] for job in jobs) / len(jobs)
            for arm, jobs in found["accuracy"].items()
        },
    }


def markdown(found: dict[str, Any]) -> str:
    """The page's section."""
    size, steps, keys = found["size"], found["steps"], figures(found)
    accuracy: dict[tuple[float, float], Sequence[Stored]] = found["accuracy"]
    quarter = accuracy[FIXED, FIXED]

    def table(what: str, arms: Sequence[tuple[float, float]]) -> str:
        rows = [
            [
                f"{100 * (arm[0] if what == 'QKV' else arm[1]):g} %",
                accuracy_cell(accuracy[arm]),
                "" if arm == (FIXED, FIXED) else str(difference(accuracy[arm], quarter)),
                f"{steps[_name(arm)]['trainable']:,}",
                _quartiles(steps[_name(arm)]["step"]),
                f"{steps[_name(arm)]['memory'] / steps[top_steps.FULL]['memory']:.3f}",
            ]
            for arm in arms
        ]
        columns = [f"share of {what}", "accuracy %", "to 25 %", "trainable", "step / LoRA"]
        return markdown_table([*columns, "memory / full"], rows)

    return "\n\n".join(
        (
            f"Accuracy: {SET}, blocks of SmolLM2-135M from {size.cut} on (of 30) and a fresh head, "
            f"{size.steps} steps of {size.batch} texts, learning rate {RATE:g}, "
            f"{len(quarter[0].figures['right'])} test rows, mean (lowest to highest) of "
            f"{len(quarter)} seeds; difference with the same seeds and rows, in points (standard "
            f"error over seeds, over rows). Steps and parameters: blocks {top_steps.CUT} to 29, "
            f"{top_steps.ROWS} x {top_steps.TOKENS} tokens, processor seconds of interleaved "
            "steps, median (quartiles); memory of gradients and optimizer state, head apart. "
            "9 query and 3 key/value heads: 12.5 % is one of each.",
            "Queries, keys and values; the output projection at 25 %:",
            table("QKV", [(share, FIXED) for share in SHARES]),
            "The output projection; queries, keys and values at 25 %:",
            table("dense", [(FIXED, share) for share in SHARES]),
            f"Written into the weight, SPF at 25 % takes {keys['one_product_step_ratio']:.2f} of "
            "the step that it takes as a product of its own; its gradients and optimizer state "
            f"are {keys['memory_ratio_25']:.3f} of those of all four matrices.",
        )
    )


def _quartiles(found: Sequence[float]) -> str:
    middle, low, high = found
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
