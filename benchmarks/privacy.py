"""Differential privacy: the noise, the accountant, the budget, and what it costs in accuracy.

    python benchmarks/privacy.py                   # 15 minutes on 2 cores; needs demo/ (make demo)
    python benchmarks/privacy.py --quick --json    # within 4 minutes
    python benchmarks/privacy.py --only noise,accountants            # seconds, and needs no demo/
    python benchmarks/privacy.py --only accuracy --plot docs/privacy.svg

Parts:

    noise         noise in a site's step and in the server's mean, against a hand computation
    accountants   epsilon of dp-accounting against Opacus, both of Renyi differential privacy: at
                  whole orders, where both are exact, and at all, where the first one's sums are cut
                  off on the safe side; beside it both numerical accountants, which are tighter
    budget        whole jobs, all enclaves in one process: one whose budget ends, and one whose
                  server dies in the middle of rounds 1 and 2 and goes on from its checkpoint
    accuracy      ICD-10 chapters at three sites, unit "example": LoRA r=8 on the last block of
                  SmolLM2-135M and a head, on outputs of the other blocks that are made once;
                  epsilon infinite (the same without clipping and noise), 8, 4, 2

Keys of the JSON line: ``noise_rel_err`` = largest error of a deviation, relative;
``epsilon_rel_diff`` = largest difference between the two accountants at whole orders, relative
(``epsilon_excess``: of what manifests state over Opacus at all orders; ``numerical_rel_diff``:
of the numerical accountants);
``resumed_equal`` = whether the resumed job has spent exactly what the uninterrupted one has; then
one key for each part.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from cut_data import CutSpec, cut_data
from output import table
from privacy_jobs import Jobs
from privacy_plot import draw
from sealtune.accounting.terms import divergence, epsilons, make_terms
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.sections import JobSpec, LoraSpec, SitesSpec, TrainSpec, TuningSpec
from sealtune.job.settings import DataSettings, ModelSettings, Settings
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.rules.private_mean import PrivateMean
from sealtune.model.cut import CutEntry
from sealtune.model.load import load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.private_gradients import Noise, PrivateGradients
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import evaluate, local_round
from sealtune.privacy.noise import NoiseStream
from sealtune.tuning.apply import apply_tuning

PARTS = ("noise", "accountants", "budget", "accuracy")
SITES = ("charity", "county", "university")
CUT = 29  # of 30 blocks
EPSILONS = (math.inf, 8.0, 4.0, 2.0)
DELTA = 1e-5
# noise multiplier, probability of a row in a step, steps
MECHANISMS = (
    (1.43, 1.0, 5), (0.9, 1.0, 1), (1.0, 0.02, 1000), (2.5, 0.2, 25), (0.8, 0.05, 60),
    (0.7, 0.004, 5000), (4.0, 0.5, 200),
)  # fmt: skip
Report = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much is done in part ``accuracy``, and how many numbers are drawn in ``noise``."""

    train: int
    test: int
    seeds: int
    rounds: int
    steps: int
    batch: int
    draws: int


FULL = Size(train=6000, test=1000, seeds=2, rounds=5, steps=8, batch=64, draws=2_000_000)
QUICK = Size(train=450, test=150, seeds=1, rounds=2, steps=4, batch=32, draws=200_000)
RATE, CLIP = 5e-3, 1.0


# --- noise --------------------------------------------------------------------------------------


def noise(size: Size) -> dict[str, Any]:
    """Deviations that were measured, over those that follow by hand; KS: against a Gaussian."""
    multiplier, clip, rows, sites = 1.3, 0.7, 40, 5
    values = np.full(size.draws, 0.123, np.float32)
    step = NoiseStream().add_noise(values, multiplier * clip)
    at_site = (step - values) / rows
    names = [f"s{i}" for i in range(sites)]
    context = RoundContext(
        shapes={"w": values.shape},
        before={"w": np.zeros_like(values)},
        settings=_settings(names, PrivacySpec(unit="site", epsilon=8.0, clip=clip)),
        weights=dict.fromkeys(names, 10),
        reach=1.0,
        folder=Path("-"),
    )
    rule = PrivateMean(context, multiplier * clip)
    in_mean = rule.result()["w"].astype(np.float64)
    measured = {
        "a row's step": (at_site, multiplier * clip / rows),
        "a site's mean": (in_mean, multiplier * clip / sites),
    }
    return {
        name: {
            "by hand": expected,
            "measured": float(drawn.std()),
            "rel_err": abs(float(drawn.std()) / expected - 1),
            "ks": _ks(drawn / expected),
        }
        for name, (drawn, expected) in measured.items()
    }


def _ks(values: np.ndarray) -> float:
    """p-value of Kolmogorov and Smirnov's test against N(0, 1)."""
    from scipy import stats

    return float(stats.kstest(values, "norm").pvalue)


# --- accountants --------------------------------------------------------------------------------


def accountants() -> list[dict[str, Any]]:
    """Epsilon of some mechanisms by four accountants."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import compute_epsilon
    from opacus.accountants import PRVAccountant, RDPAccountant

    rows = []
    for multiplier, rate, steps in MECHANISMS:
        orders, divergences = divergence(multiplier, rate)
        known = np.isfinite(divergences)
        whole = known & (np.asarray(orders) % 1 == 0)
        second, tight = RDPAccountant(), PRVAccountant()
        second.history = tight.history = [(multiplier, rate, steps)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = [second.get_epsilon(DELTA, alphas=list(orders[of])) for of in (known, whole)]
            prv = tight.get_epsilon(DELTA)
        ours = epsilons(multiplier, rate, steps, (1,), DELTA)[0]
        at_whole = compute_epsilon(orders[whole], steps * divergences[whole], DELTA)[0]
        pld = PLDAccountant()
        pld.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier)), steps)
        rows.append(
            {
                "noise": multiplier,
                "rate": rate,
                "steps": steps,
                "dp_accounting_rdp": ours,
                "opacus_rdp": float(theirs[0]),
                "excess": ours / float(theirs[0]) - 1,
                "rel_diff": abs(float(at_whole) / float(theirs[1]) - 1),
                "dp_accounting_pld": float(pld.get_epsilon(DELTA)),
                "opacus_prv": float(prv),
            }
        )
    return rows


# --- accuracy -----------------------------------------------------------------------------------


def accuracy(size: Size, options: argparse.Namespace, report: Report) -> list[dict[str, Any]]:
    """Accuracy at each epsilon, over seeds."""
    runs = _Runs(size, options)
    rows = []
    for epsilon in EPSILONS:
        settings = runs.settings(epsilon)
        terms = make_terms(settings, dict(zip(SITES, map(len, runs.parts), strict=True)))
        multiplier = terms.noise_multiplier if terms else None
        reached = []
        for seed in range(1, size.seeds + 1):
            reached.append(100 * runs.train(settings, multiplier, seed))
            report(f"epsilon {epsilon}, seed {seed}: {reached[-1]:.1f} %")
        rows.append(
            {
                "epsilon": None if math.isinf(epsilon) else epsilon,
                "spent": terms.spent(size.rounds) if terms else None,
                "noise_multiplier": multiplier,
                "accuracy": statistics.mean(reached),
                "low": min(reached),
                "high": max(reached),
                "seeds": len(reached),
            }
        )
    return rows


class _Runs:
    """Three sites that train the last block on activations at hand."""

    def __init__(self, size: Size, options: argparse.Namespace) -> None:
        data = cut_data(
            CutSpec(
                "icd10", size.train, size.test, CUT, "bf16", str(options.model), str(options.data)
            )
        )
        spec = data.spec.model_spec
        top = load_part(spec, len(data.labels), CUT, "top")
        self._task, entry = data.task(load_tokenizer(spec)), CutEntry(top, CUT)
        self.parts = [
            data.samples(data.train[i :: len(SITES)], entry, self._task) for i in range(len(SITES))
        ]
        self._test, self._size = data.samples(data.test, entry, self._task), size
        tuning = TuningSpec(lora=LoraSpec(rank=8))
        self._model = apply_tuning(top, tuning, "classification", 1, first_block=CUT)
        self._first = {n: t.clone() for n, t in trainable_state(self._model).items()}

    def settings(self, epsilon: float) -> Settings:
        """Of a job with this budget."""
        train = TrainSpec(
            steps_per_round=self._size.steps, batch_size=self._size.batch, learning_rate=RATE
        )
        privacy = PrivacySpec()
        if not math.isinf(epsilon):
            privacy = PrivacySpec(unit="example", epsilon=epsilon, delta=DELTA, clip=CLIP)
        return _settings(SITES, privacy, train, self._size.rounds)

    def train(self, settings: Settings, multiplier: float | None, seed: int) -> float:
        """Rounds of all sites, averaged; returns the accuracy on the test rows."""
        state, spec = self._first, settings.train
        for number in range(1, self._size.rounds + 1):
            updates = []
            for site, rows in zip(SITES, self.parts, strict=True):
                load_trainable_state(self._model, state)
                private = None
                if multiplier is not None:
                    noise_ = Noise(CLIP, multiplier)
                    private = PrivateGradients(self._model, self._task, rows, spec, noise_)
                local_round(
                    self._model, self._task, rows, spec, seed=seed, round=number, site=site,
                    private=private,
                )  # fmt: skip
                updates.append({n: t.clone() for n, t in trainable_state(self._model).items()})
            state = {n: sum(u[n] for u in updates) / len(updates) for n in state}  # type: ignore[misc]
        load_trainable_state(self._model, state)
        found = evaluate(self._model, self._task, self._test, batch_size=64)
        return found.correct / found.total


def _settings(
    sites: Sequence[str], privacy: PrivacySpec, train: TrainSpec | None = None, rounds: int = 3
) -> Settings:
    return Settings(
        job=JobSpec(name="privacy", rounds=rounds),
        model=ModelSettings(),
        data=DataSettings(),
        sites=SitesSpec(names=tuple(sites)),
        train=train or TrainSpec(),
        privacy=privacy,
        tuning=TuningSpec(),
    )


# --- output -------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> Iterator[Table]:
    """Of the parts that were done."""
    if "noise" in result:
        yield table(
            "noise: deviation",
            ("where", "by hand", "measured", "relative error", "KS p-value"),
            [
                (name, f"{f['by hand']:.6f}", f"{f['measured']:.6f}", f"{f['rel_err']:.1e}",
                 f"{f['ks']:.2f}")
                for name, f in result["noise"].items()
            ],
        )  # fmt: skip
    if "accountants" in result:
        yield table(
            "accountants: epsilon at delta 1e-5",
            ("noise", "rate", "steps", "RDP, dp-accounting", "RDP, Opacus", "excess",
             "at whole orders", "PLD, dp-accounting", "PRV, Opacus"),
            [
                (f["noise"], f["rate"], f["steps"], f"{f['dp_accounting_rdp']:.4f}",
                 f"{f['opacus_rdp']:.4f}", f"{f['excess']:.1e}", f"{f['rel_diff']:.1e}",
                 f"{f['dp_accounting_pld']:.3f}", f"{f['opacus_prv']:.3f}")
                for f in result["accountants"]
            ],
        )  # fmt: skip
    if "budget" in result:
        yield table(
            "budget: jobs of 5 rounds",
            ("unit", "budget", "rounds paid for", "rounds trained", "spent", "spent, resumed",
             "released"),
            [
                (unit, f["budget"], f["allowed"], f["trained"], f["spent"], f["spent_resumed"],
                 "at every site" if f["released"] else "NO")
                for unit, f in result["budget"].items()
            ],
        )  # fmt: skip
    if "accuracy" in result:
        yield table(
            "accuracy: icd10, three sites",
            ("epsilon", "noise multiplier", "accuracy %", "lowest", "highest", "seeds"),
            [
                (f["epsilon"] or "infinite", f["noise_multiplier"] or "-", f"{f['accuracy']:.1f}",
                 f"{f['low']:.1f}", f"{f['high']:.1f}", f["seeds"])
                for f in result["accuracy"]
            ],
        )  # fmt: skip


@contextmanager
def progress(total: int) -> Iterator[Report]:
    """A bar on a terminal, otherwise a line for each step; both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        count = iter(range(1, total + 1))
        yield lambda text: print(f"{next(count)}/{total} {text}", file=sys.stderr, flush=True)
        return
    with Progress(console=console) as bar:
        line = bar.add_task("parts", total=total)
        yield lambda text: bar.update(line, advance=1, description=text)


def parse_options() -> argparse.Namespace:
    """The command line."""

    def parts(text: str) -> list[str]:
        if wrong := set(text.split(",")) - set(PARTS):
            raise argparse.ArgumentTypeError(f"{wrong.pop()} is none of {', '.join(PARTS)}")
        return text.split(",")

    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model", type=Path, help="folder of the backbone")
    parser.add_argument("--data", default="demo/data", type=Path, help="folder of the demo sets")
    parser.add_argument("--only", type=parts, default=list(PARTS), help="parts")
    parser.add_argument("--plot", type=Path, help="write accuracy against epsilon as SVG")
    parser.add_argument("--quick", action="store_true", help="small: within 4 minutes")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    return parser.parse_args()


def main() -> None:
    """Parse options, run, print."""
    options = parse_options()
    size = QUICK if options.quick else FULL
    result: dict[str, Any] = {}
    total = sum(
        {"accuracy": len(EPSILONS) * size.seeds, "budget": 2}.get(p, 1) for p in options.only
    )
    with progress(total) as report:
        if "noise" in options.only:
            result["noise"] = noise(size)
            result["noise_rel_err"] = max(f["rel_err"] for f in result["noise"].values())
            report("noise")
        if "accountants" in options.only:
            result["accountants"] = accountants()
            result["epsilon_rel_diff"] = max(f["rel_diff"] for f in result["accountants"])
            result["epsilon_excess"] = max(f["excess"] for f in result["accountants"])
            result["numerical_rel_diff"] = max(
                abs(f["dp_accounting_pld"] / f["opacus_prv"] - 1) for f in result["accountants"]
            )
            report("accountants")
        if "budget" in options.only:
            with tempfile.TemporaryDirectory() as folder:
                result["budget"] = {
                    unit: Jobs(Path(folder), unit, options.model, options.data).figures(report)
                    for unit in ("site", "example")
                }
            result["resumed_equal"] = all(
                f["spent"] == f["spent_resumed"] for f in result["budget"].values()
            )
        if "accuracy" in options.only:
            result["accuracy"] = accuracy(size, options, report)
            if options.plot:
                options.plot.write_text(draw(result["accuracy"]), encoding="utf-8")
    console = Console(width=200 if not sys.stdout.isatty() else None)
    for made in tables(result):
        console.print(made, "")
    if options.json:
        print(json.dumps({**result, "quick": options.quick, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
