"""Which recipe wins: SPF beside LoRA, against LoRA and against rsLoRA with as many parameters.

    python benchmarks/recipes.py                  # on a CPU about half an hour; needs demo/
    python benchmarks/recipes.py --quick --json   # one set, two seeds, few steps; no page

Arms, all on the last blocks of SmolLM2-135M and a fresh head, on cut activations of five sets:

    lora      LoRA r=8 on q, k, v, o
    rslora    rsLoRA there, with the rank that makes as many parameters as paper's
    paper     [tuning] preset = "paper"
    spf-vo    [tuning] preset = "spf-vo"

AdamW, 5 % warm-up, then cosine; the head has a rate of its own. Each arm's rate is the best of
``GRID`` on held-out training rows after half the steps (one seed): of each set on a CUDA device, of
the first set alone on a CPU. Seeds are paired. Errors are standard errors over seeds, over rows.

Keys of the JSON line: ``spf_vo_minus_rslora_mean``, in points over all sets, with its errors
``spf_vo_minus_rslora_over_seeds`` and ``_over_rows``; the same ``paper_minus_rslora_…`` and of each
arm against ``lora``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from page import markdown_table, write_section
from stored_jobs import Stored
from top_jobs import (
    QUICK,
    SETS,
    TUNING_SEED,
    Gap,
    Place,
    TopJob,
    accuracy_cell,
    difference,
    fetch,
    mean_gap,
    size_here,
    trained,
)

TABLE = "recipes"
RSLORA_RANK = 66  # 1,520,640 parameters in six blocks; paper has 1,511,424, spf-vo 1,502,208
ARMS: dict[str, dict[str, Any]] = {
    "lora": {"lora": {"rank": 8}},
    "rslora": {"lora": {"rank": RSLORA_RANK, "scaling": "rslora"}},
    "paper": {"preset": "paper"},
    "spf-vo": {"preset": "spf-vo"},
}
GRID = (1.2e-3, 4e-3, 1.2e-2)
PAIRS = (("spf-vo", "rslora"), ("paper", "rslora"), ("spf-vo", "lora"), ("paper", "lora"),
         ("rslora", "lora"))  # fmt: skip


class Recipes:
    """The jobs of one call, and what came of them.

    Args:
        options: the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.size = QUICK if options.quick else size_here()
        self.sets: tuple[str, ...] = ("icd10",) if options.quick else tuple(options.sets)
        self.seeds = range(1, 1 + (2 if options.quick else options.seeds))
        self._place = Place(options.model, options.data)
        fetch(self._place, self.sets)
        self.rates = self._rates()
        jobs = [
            TopJob(name, ARMS[arm], seed, self.rates[name][arm], self.size)
            for seed in self.seeds
            for name in self.sets
            for arm in ARMS
        ]
        done = iter(self._trained(jobs))
        self.found: dict[str, dict[str, list[Stored]]] = {
            name: {arm: [] for arm in ARMS} for name in self.sets
        }
        for _ in self.seeds:
            for name in self.sets:
                for arm in ARMS:
                    self.found[name][arm].append(next(done))

    @property
    def head_rate(self) -> float:
        """Learning rate of every head."""
        return TopJob("", {}, 0, 0.0, self.size).head_rate

    @property
    def tuned_on(self) -> tuple[str, ...]:
        """The sets on whose training rows rates are chosen."""
        return self.sets if torch.cuda.is_available() else self.sets[:1]

    def _rates(self) -> dict[str, dict[str, float]]:
        """Set -> arm -> the rate with the best answers on held-out training rows."""
        tuned_on = self.tuned_on
        keys = [(name, arm, rate) for name in tuned_on for arm in ARMS for rate in GRID]
        jobs = [
            TopJob(name, ARMS[arm], TUNING_SEED, rate, self.size, choose=True)
            for name, arm, rate in keys
        ]
        scores = {
            key: (job.figures["accuracy"], -job.figures["loss"])
            for key, job in zip(keys, self._trained(jobs), strict=True)
        }
        best = {
            name: {arm: max(GRID, key=lambda r: scores[name, arm, r]) for arm in ARMS}
            for name in tuned_on
        }
        return {name: best.get(name, best[tuned_on[0]]) for name in self.sets}

    def _trained(self, jobs: Sequence[TopJob]) -> list[Stored]:
        table = TABLE + "-quick" * self._options.quick
        return trained(
            table, jobs, self._place, workers=self._options.workers, fresh=self._options.fresh
        )

    def gap(self, one: str, other: str, name: str) -> Gap:
        """Of two arms, on one set."""
        return difference(self.found[name][one], self.found[name][other])

    def mean(self, one: str, other: str) -> Gap:
        """Of two arms, over all sets."""
        return mean_gap([self.gap(one, other, name) for name in self.sets])

    def keys(self) -> dict[str, Any]:
        """Of the JSON line."""
        found: dict[str, Any] = {}
        for one, other in PAIRS:
            gap, key = self.mean(one, other), f"{one}_minus_{other}".replace("-", "_")
            found[f"{key}_mean"] = round(gap.mean, 3)
            found[f"{key}_over_seeds"] = gap.over_seeds and round(gap.over_seeds, 3)
            found[f"{key}_over_rows"] = round(gap.over_rows, 3)
        found["rates"] = self.rates
        return found


def markdown(recipes: Recipes) -> str:
    """The page's section."""
    found, every = recipes.found, [f"{one} - {other}" for one, other in PAIRS]
    rows = [
        [
            f"{name} ({len(jobs['lora'][0].figures['right'])})",
            f"{100 * jobs['lora'][0].figures['majority']:.1f}",
            *(accuracy_cell(jobs[arm]) for arm in ARMS),
        ]
        for name, jobs in found.items()
    ]
    first = next(iter(found.values()))
    rows.append(["trainable", "", *(f"{first[arm][0].figures['trainable']:,}" for arm in ARMS)])
    gaps = [[name, *(str(recipes.gap(*pair, name)) for pair in PAIRS)] for name in recipes.sets]
    gaps.append(["mean", *(str(recipes.mean(*pair)) for pair in PAIRS)])
    columns = ["set (test rows)", "largest class", *(f"`{arm}`" for arm in ARMS)]
    return "\n\n".join(
        (
            _how(recipes),
            markdown_table(columns, rows),
            "Differences with the same seeds and rows, in points (standard error over seeds, over "
            "rows):",
            markdown_table(["set", *every], gaps),
            _verdict(recipes),
        )
    )


def _how(recipes: Recipes) -> str:
    size, sets = recipes.size, recipes.sets
    rates = "; ".join(
        f"{name}: {', '.join(f'{arm} {rate:g}' for arm, rate in arms.items())}"
        for name, arms in recipes.rates.items()
        if arms is not recipes.rates[sets[0]] or name == sets[0]
    )
    return (
        f"Test rows answered rightly, in %: mean (lowest to highest) of {len(recipes.seeds)} "
        f"seeds. Blocks of SmolLM2-135M from {size.cut} on (of 30) and a fresh head, "
        f"{size.steps} steps of {size.batch} texts, {size.precision}, at most "
        f"{size.train - size.held:,} training rows"
        f"{f' of at most {size.tokens} tokens' if size.tokens else ''}. The head's learning rate "
        f"is {recipes.head_rate:g}; those of what is tuned in blocks were chosen on held-out "
        f"training rows of {'each set' if len(recipes.tuned_on) > 1 else sets[0]}: {rates}."
    )


def _verdict(recipes: Recipes) -> str:
    mean = recipes.mean("spf-vo", "rslora")
    ahead = [name for name in recipes.sets if recipes.gap("spf-vo", "rslora", name).mean > 0]
    error = max(mean.over_seeds or 0, mean.over_rows)
    weight = "more" if abs(mean.mean) > 2 * error else "less"
    return (
        f"At equal parameters `spf-vo` is {mean.mean:+.2f} points from rsLoRA in the mean of "
        f"{len(recipes.sets)} sets, {weight} than twice its error; it is ahead on "
        f"{', '.join(ahead) or 'none of them'}."
    )


def main() -> None:
    """Parse options, run, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model", help="its folder")
    parser.add_argument("--data", default="demo/data", help="folder of the demo sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one set, two seeds; no page")
    parser.add_argument("--fresh", action="store_true", help="run stored jobs again")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    recipes = Recipes(options)
    if not options.quick:
        write_section(TABLE, markdown(recipes))
    print(markdown(recipes))
    if options.json:
        print(json.dumps(recipes.keys(), sort_keys=True))


if __name__ == "__main__":
    main()
