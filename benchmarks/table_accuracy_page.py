"""Table 1 as figures, Markdown and a plot, from its stored jobs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from page import markdown_table, plot, write_plot
from stored_jobs import Stored
from table_accuracy import COLUMNS, FLOORS, Wanted

# tuner -> (masked column, the plain one that it protects)
PAIRS = {
    "lora": ("method-1-lora", "plain-lora"),
    "ptuning": ("method-1-ptuning", "plain-ptuning"),
}
_TITLES = {"majority": "largest class", "tf-idf": "TF-IDF"} | {
    name: column.title for name, column in COLUMNS.items()
}
_COLOURS = {
    "local": "#a86400", "pooled": "#2f6db5", "plain-lora": "#8fbf9f", "plain-ptuning": "#c9a6d8",
    "method-1-lora": "#0b7a4b", "method-1-ptuning": "#7a3ea1", "method-2-lora": "#c43e3e",
    "method-2-spf": "#e38b5b",
}  # fmt: skip
Accuracy = Mapping[tuple[str, str, int], Mapping[str, Any]]  # set, column, seed -> shares


def figures(wanted: Wanted, jobs: Sequence[Stored]) -> dict[str, Any]:
    """The keys of the JSON line.

    Returns:
        ``accuracy``: set -> column -> ``all`` and ``own``: every seed, in percent.
        ``rates``: column -> learning rate.
        ``masked_minus_plain``: set -> tuner -> ``mean`` over seeds, in points, and ``spread``, from
        the least to the most of the plain column's seeds.
        ``federated_minus_pooled``, ``federated_minus_local_mean``: Method 1 with LoRA, mean over
        sets and seeds in points; ``..._error``: standard error over sets and seeds;
        ``..._by_set``; ``plain_minus_pooled``: the same of plain federated training.
    """
    of = {(j.settings["set"], j.settings["column"], j.settings["seed"]): j.figures for j in jobs}
    columns = (*FLOORS, *wanted.columns)
    accuracy = {
        name: {
            column: {
                rows: [round(100 * of[name, column, seed][rows], 2) for seed in wanted.seeds]
                for rows in (("all",) if column in FLOORS else ("all", "own"))
            }
            for column in columns
        }
        for name in wanted.sets
    }
    rates = {j.settings["column"]: j.settings["rate"] for j in jobs if "rate" in j.settings}
    found = {"accuracy": accuracy, "rates": rates, "masked_minus_plain": _masked(accuracy)}
    for key, one, other in (
        ("federated_minus_pooled", "method-1-lora", "pooled"),
        ("federated_minus_local_mean", "method-1-lora", "local"),
        ("plain_minus_pooled", "plain-lora", "pooled"),
        ("ptuning_minus_lora", "method-1-ptuning", "method-1-lora"),
        ("spf_minus_lora", "method-2-spf", "method-2-lora"),
    ):
        if {one, other} <= set(columns):
            found |= _difference(key, accuracy, one, other)
    return found


def _masked(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            tuner: {
                "mean": _mean_difference(of[masked]["all"], of[plain]["all"]),
                "spread": round(max(of[plain]["all"]) - min(of[plain]["all"]), 2),
            }
            for tuner, (masked, plain) in PAIRS.items()
            if {masked, plain} <= set(of)
        }
        for name, of in accuracy.items()
    }


def _difference(key: str, accuracy: Mapping[str, Any], one: str, other: str) -> dict[str, Any]:
    by_set = {
        name: _mean_difference(of[one]["all"], of[other]["all"]) for name, of in accuracy.items()
    }
    each = [
        a - b
        for of in accuracy.values()
        for a, b in zip(of[one]["all"], of[other]["all"], strict=True)
    ]
    error = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None
    return {
        key: round(statistics.fmean(each), 2),
        f"{key}_error": error and round(error, 2),
        f"{key}_by_set": by_set,
    }


def _mean_difference(one: Sequence[float], other: Sequence[float]) -> float:
    return round(statistics.fmean(one) - statistics.fmean(other), 2)


def markdown(wanted: Wanted, found: Mapping[str, Any]) -> str:
    """The section of the page."""
    accuracy, size = found["accuracy"], wanted.size
    blocks = f"cut to its first {size.blocks} blocks" if size.blocks else "whole"
    seeds = f"mean of {len(wanted.seeds)} seeds (least to most)" if wanted.seeds[1:] else "one seed"
    tuned_on = " and ".join(wanted.tuned_on)
    said = f"""
    Right answers in percent, {seeds}. SmolLM2-135M {blocks}; texts cut to {size.tokens} tokens;
    {size.train} training and {size.test} test rows at most, drawn by the seed and dealt out to
    three sites (Dirichlet, {size.alpha:g}); {size.rounds} rounds of {size.steps} steps of
    {size.batch} rows at each site, pooled and Method 2 as many as all sites together; rates warm
    up and fall to zero (cosine). LoRA (rank 8) and SPF + LoRA (preset `spf-vo`) tune the last
    {size.tuned} blocks; P-tuning v2 (16 virtual tokens) works on all, and does half the rounds.
    The head's rate is 0.003 for pooled and Method 2, with three times the steps, and 0.01
    otherwise; each column's own was chosen on held-out training rows of {tuned_on},
    in a third of the rounds; Method 1 has the plain run's, Method 2 with LoRA the pooled one's.
    `spf-vo` tunes all values, some outputs and low rank elsewhere, and makes 48 steps first to
    choose heads by. TF-IDF (words and pairs of words, logistic regression) reads whole texts.
    """
    parts = [
        " ".join(said.split()),
        "On all rows: the test rows of all sites (local: mean over the sites' adapters).",
        _rows(wanted, accuracy, "all"),
        "On own rows: mean over sites, each on its own test rows.",
        _rows(wanted, accuracy, "own"),
        "![Right answers by set and column](table-1.svg)",
        _said(found),
        "Learning rates: "
        + ", ".join(f"{_TITLES[c]} {found['rates'][c]:g}" for c in wanted.columns)
        + ".",
    ]
    return "\n\n".join(parts)


def _rows(wanted: Wanted, accuracy: Mapping[str, Any], rows: str) -> str:
    columns = (*FLOORS, *wanted.columns) if rows == "all" else wanted.columns
    return markdown_table(
        ("set", *(_TITLES[column] for column in columns)),
        [(name, *(_cell(accuracy[name][c][rows]) for c in columns)) for name in wanted.sets],
    )


def _cell(seeds: Sequence[float]) -> str:
    spread = f" ({min(seeds):.1f} to {max(seeds):.1f})" if len(set(seeds)) > 1 else ""
    return f"{statistics.fmean(seeds):.1f}{spread}"


def _said(found: Mapping[str, Any]) -> str:
    """The differences that the table is made for, in points."""
    lines = [
        ("Method 1 less pooled, LoRA", "federated_minus_pooled"),
        ("plain federated less pooled, LoRA", "plain_minus_pooled"),
        ("Method 1 less local, LoRA", "federated_minus_local_mean"),
        ("P-tuning v2 less LoRA, Method 1", "ptuning_minus_lora"),
        ("SPF + LoRA less LoRA, Method 2", "spf_minus_lora"),
    ]
    rows = [
        (words, f"{found[key]:+.1f}", _error(found[f"{key}_error"]),
         *(f"{one:+.1f}" for one in found[f"{key}_by_set"].values()))
        for words, key in lines
        if key in found
    ]  # fmt: skip
    for tuner in PAIRS:
        own = {n: of[tuner] for n, of in found["masked_minus_plain"].items() if tuner in of}
        if own:
            mean = statistics.fmean(one["mean"] for one in own.values())
            cells = (f"{one['mean']:+.1f} ({one['spread']:.1f})" for one in own.values())
            words = f"masked less plain, {tuner} (spread of plain's seeds)"
            rows.append((words, f"{mean:+.1f}", "", *cells))
    sets = found["accuracy"]
    head = ("difference on all rows, points", "mean", "standard error", *sets)
    return markdown_table(head, rows)


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def draw(wanted: Wanted, found: Mapping[str, Any]) -> None:
    """``docs/table-1.svg``: a panel for each set; marks are means, lines reach over the seeds."""
    sets = wanted.sets
    figure, axes = plot(1, len(sets), width=2.3 * len(sets) + 0.6, height=4.2)
    for axis, name in zip([axes] if len(sets) == 1 else axes, sets, strict=True):
        of = found["accuracy"][name]
        for place, column in enumerate(wanted.columns):
            for shift, rows, filled in ((-0.16, "all", True), (0.16, "own", False)):
                seeds, colour = of[column][rows], _COLOURS[column]
                x, mean = place + shift, statistics.fmean(seeds)
                axis.plot([x, x], [min(seeds), max(seeds)], color=colour, linewidth=1.2)
                face = colour if filled else "white"
                axis.plot([x], [mean], "o", color=colour, markerfacecolor=face, markersize=5)
        for style, floor in zip((":", "--"), FLOORS, strict=True):
            level = statistics.fmean(of[floor]["all"])
            axis.axhline(level, color="#4d5b69", linestyle=style, linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.set_xticks(range(len(wanted.columns)))
        axis.set_xticklabels([_TITLES[c] for c in wanted.columns], rotation=90, fontsize=7)
        axis.grid(axis="x", visible=False)
    first = axes if len(sets) == 1 else axes[0]
    first.set_ylabel("right answers, %")
    figure.suptitle(
        "Filled: all rows; hollow: own rows. Dotted: largest class; dashed: TF-IDF.", fontsize=8
    )
    write_plot("table-1", figure)
