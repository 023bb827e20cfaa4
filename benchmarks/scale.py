"""How cost grows: with sites, rows, length, depth, width and rounds, and what that gives far away.

    python benchmarks/scale.py                  # what is not stored is run: about half an hour
    python benchmarks/scale.py --quick --json   # 2, 8 and 64 sites, and few other sizes: minutes

Each job is a Method 1 job of real programs (``scale_job.py``) on models that are made in a second.
A cost is fitted as ``a * size ^ exponent``, least squares of logarithms; an exponent's error is two
standard errors. The largest size is also predicted from the others, and how far off that was is
stated. Keys of the JSON line:

    server_mib_64_over_2     the server enclave's peak memory with 64 sites over that with 2
    seconds_exponent_sites   of the processor seconds of whole jobs, 1 to 64 sites
    series                   for each size that grows: sizes, costs, exponents
    extrapolated             for 1,000 sites and a model of 8 billion parameters

``--quick`` writes no page.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from page import markdown_table, plot, write_plot, write_section
from scale_job import run
from sealtune.job.units import size
from stored_jobs import Stored, stored

TABLE = "scale"
BASE = {"sites": 2, "rows": 32, "tokens": 32, "layers": 2, "hidden": 256, "rounds": 2, "rank": 8}
# many sites do little each, and send much: an adapter's size is what a server could hold too often
MANY = {"rows": 8, "tokens": 16, "rank": 64}
SERIES: Mapping[str, tuple[Sequence[int], Mapping[str, int]]] = {
    "sites": ((1, 2, 4, 8, 16, 32, 64), MANY),
    "rows": ((32, 64, 128), {}),
    "tokens": ((32, 64, 128), {}),
    "layers": ((2, 4, 8), {}),
    "hidden": ((256, 512, 1024), {}),
    "rounds": ((2, 4, 8), {}),
}
QUICK: Mapping[str, Sequence[int]] = {
    "sites": (2, 8, 64),
    "tokens": (16, 64),
    "hidden": (256, 1024),
}
TITLES = {"sites": "sites", "rows": "rows of a site", "tokens": "tokens of a text",
          "layers": "blocks", "hidden": "width", "rounds": "rounds"}  # fmt: skip
COSTS: Mapping[str, Callable[[Stored], float]] = {
    "job seconds": lambda job: sum(job.figures["seconds"].values()),
    "seconds": lambda job: sum(job.figures["training"].values()),
    "server seconds": lambda job: float(job.figures["training"]["server"]),
    "accelerator seconds": lambda job: float(job.figures["training"]["accelerator"]),
    "bytes": lambda job: float(job.figures["up"] + job.figures["down"]),
    "masked bytes": lambda job: float(job.figures["masked"]),
    "server MiB": lambda job: float(job.figures["server_mib"]),
    "accelerator MiB": lambda job: float(job.figures["accelerator_mib"]),
}
PEAKS = ("server MiB", "accelerator MiB")


@dataclass(frozen=True)
class Fit:
    """A power law.

    Attributes:
        exponent, error: two standard errors (none of two points).
        at_one: what it gives for size 1.
        off: of the largest size, when it is predicted from the others: predicted over measured,
            minus 1.
    """

    exponent: float
    error: float | None
    at_one: float
    off: float | None

    @classmethod
    def of(cls, sizes: Sequence[float], costs: Sequence[float]) -> Fit:
        """The one nearest to some points."""
        x, y = [[math.log(v) for v in values] for values in (sizes, costs)]
        found = stats.linregress(x, y)
        off = None
        if len(x) > 2:
            near = stats.linregress(x[:-1], y[:-1])
            off = math.exp(near.intercept + near.slope * x[-1] - y[-1]) - 1
        error = 2 * float(found.stderr) if len(x) > 2 else None
        return cls(float(found.slope), error, math.exp(found.intercept), off)

    def at(self, value: float) -> float:
        """What it gives for another size."""
        return self.at_one * value**self.exponent

    def __str__(self) -> str:
        return f"{self.exponent:.2f}" + (f" ± {self.error:.2f}" if self.error is not None else "")


@dataclass(frozen=True)
class Grown:
    """One series: what grew, and each cost of it with its fit; ``adapter``: bytes, of the last."""

    sizes: list[int]
    costs: dict[str, list[float]]
    fits: dict[str, Fit]
    adapter: int

    @classmethod
    def of(cls, sizes: Sequence[int], jobs: Sequence[Stored]) -> Grown:
        """Of jobs of these sizes."""
        costs = {name: [cost(job) for job in jobs] for name, cost in COSTS.items()}
        fits = {name: Fit.of(sizes, own) for name, own in costs.items()}
        return cls(list(sizes), costs, fits, jobs[-1].figures["adapter"])


def settings(what: str, value: int) -> dict[str, Any]:
    """A job's, in a series."""
    return {**BASE, **SERIES[what][1], what: value}


def measure(names: Sequence[str], *, quick: bool, fresh: bool) -> dict[str, Grown]:
    """These series, or what a quick run has of them."""
    every = QUICK if quick else {what: values for what, (values, _) in SERIES.items()}
    sizes = {what: values for what, values in every.items() if what in names}
    asked = [settings(what, value) for what, values in sizes.items() for value in values]
    jobs = iter(stored(f"{TABLE}-quick" if quick else TABLE, asked, run, fresh=fresh))
    return {what: Grown.of(values, [next(jobs) for _ in values]) for what, values in sizes.items()}


# --- far away -----------------------------------------------------------------------------------

EIGHT = {"layers": 32, "hidden": 4096}  # Llama 3 8B
FAR_SITES = 1000


def extrapolated(series: Mapping[str, Grown]) -> dict[str, float]:
    """A round of 1,000 sites, and a step of 8 billion parameters. Each size counts by its own law,
    on top of the job that all these series begin with; nobody has run either.
    """
    sites = series["sites"].fits
    found = {
        "seconds_per_site_1000_over_64": sites["job seconds"].at(FAR_SITES) / FAR_SITES
        / (sites["job seconds"].at(64) / 64),
        "server_mib_1000_over_2": sites["server MiB"].at(FAR_SITES) / sites["server MiB"].at(2),
    }  # fmt: skip
    if "layers" in series:
        steps = BASE["sites"] * BASE["rounds"] * BASE["rows"] / 8
        for cost in ("seconds", "accelerator seconds", "masked bytes", "bytes"):
            wide, deep = series["hidden"].fits[cost], series["layers"].fits[cost]
            whole = wide.at(EIGHT["hidden"]) * (EIGHT["layers"] / BASE["layers"]) ** deep.exponent
            found[f"8b {cost}, a step"] = whole / steps
    return found


# --- what is shown ------------------------------------------------------------------------------


def page(series: Mapping[str, Grown]) -> str:
    """The section."""
    rows = []
    for what, grown in series.items():
        shown = [str(grown.fits[cost]) for cost in COSTS if cost not in PEAKS]
        shown += [_ends(grown.costs[cost]) for cost in PEAKS]
        off = grown.fits["seconds"].off or 0.0
        sizes = f"{TITLES[what]}, {grown.sizes[0]} to {grown.sizes[-1]}"
        rows.append((sizes, *shown, f"{100 * off:+.0f} %"))
    columns = ("what grows", "seconds, job", "seconds, rounds", "of the server",
               "of the accelerator", "bytes", "masked bytes", "server's peak, MiB",
               "accelerator's peak, MiB", "largest predicted")  # fmt: skip
    adapter = series["sites"].adapter
    return "\n\n".join((
        "Method 1 with the real programs of server enclave and accelerator, one accelerator for "
        "all sites of the machine. Exponents of `cost = a * size ^ exponent`, with two standard "
        "errors: 1 is in proportion, 0 is not at all. Seconds are processor seconds of all "
        "processes from when everything is loaded: of the whole job, and of its training rounds "
        "without evaluation, release and export, of which the two columns behind it are parts. "
        "Bytes are what the network carries, masked bytes what goes to the accelerator and back. "
        "The last column: the rounds' seconds at the largest size as the smaller ones predict "
        "them, against those measured.",
        markdown_table(columns, rows),
        f"Where nothing else is said a job has {BASE['sites']} sites of {BASE['rows']} rows of "
        f"{BASE['tokens']} tokens, {BASE['rounds']} rounds of one epoch in steps of 8 rows, and a "
        f"random model of {BASE['layers']} blocks, {BASE['hidden']} wide, with Llama 3's "
        f"proportions and LoRA of rank {BASE['rank']} on every linear layer. In the first line "
        f"each site has {MANY['rows']} rows of {MANY['tokens']} tokens, and rank {MANY['rank']} "
        f"makes an adapter of {size(adapter)}: kept once for each of 64 sites, it would be "
        f"{size(64 * adapter)}.",
        _words(series),
        "![Costs against sizes, both on logarithmic axes](scale.svg)",
    ))  # fmt: skip


def _ends(costs: Sequence[float]) -> str:
    return f"{costs[0]:.0f} to {costs[-1]:.0f}"


def _words(series: Mapping[str, Grown]) -> str:
    """What follows for sizes that nobody has run."""
    far = extrapolated(series)
    sites = (
        "**Extrapolated, not measured.** With 1,000 sites (a job file takes 64) each site would "
        f"cost {far['seconds_per_site_1000_over_64']:.2f} times what it costs among 64, and the "
        f"server take {far['server_mib_1000_over_2']:.2f} times the memory that it needs for 2."
    )
    given = {name.removeprefix("8b "): value for name, value in far.items() if name[:2] == "8b"}
    if not given:
        return sites
    return (
        f"{sites} With a model of 8 billion parameters (32 blocks, 4,096 wide) one site's training "
        f"step of 8 rows of {BASE['tokens']} tokens, with its share of all else, would take "
        f"{given['seconds, a step']:,.0f} processor seconds, "
        f"{given['accelerator seconds, a step']:,.0f} of them the accelerator's, on this "
        f"processor, and {size(int(given['masked bytes, a step']))} to the accelerator and back."
    )


def draw(series: Mapping[str, Grown]) -> Any:
    """A plot for each size that grows: measured points, fitted lines."""
    rows = -(-len(series) // 3)
    columns = min(3, len(series))
    figure, axes = plot(rows, columns, width=1 + 3 * columns, height=3 * rows)
    places = [axes] if len(series) == 1 else list(axes.flat)
    shown = {"seconds": "#1f5fa8", "server seconds": "#b3541e", "bytes": "#3a7d44"}
    for place, (what, grown) in zip(places, series.items(), strict=False):
        for cost, colour in shown.items():
            measured, fit = grown.costs[cost], grown.fits[cost]
            unit = 1e6 if cost == "bytes" else 1.0
            label = f"{'MB' if cost == 'bytes' else cost}, exponent {fit.exponent:.2f}"
            place.loglog(grown.sizes, [c / unit for c in measured], "o", color=colour, label=label)
            ends = (grown.sizes[0], grown.sizes[-1])
            place.loglog(ends, [fit.at(end) / unit for end in ends], color=colour, linewidth=1)
        place.set_xticks(grown.sizes, [str(each) for each in grown.sizes])
        place.minorticks_off()
        place.set_xlabel(TITLES[what])
        place.legend(fontsize=7)
    for place in places[::3]:
        place.set_ylabel("processor seconds, MB")
    return figure


def keys(series: Mapping[str, Grown]) -> dict[str, Any]:
    """The JSON line."""
    sites = series["sites"]
    peak = dict(zip(sites.sizes, sites.costs["server MiB"], strict=True))
    return {
        "server_mib_64_over_2": round(peak[64] / peak[2], 3),
        "seconds_exponent_sites": round(sites.fits["job seconds"].exponent, 3),
        "series": {what: asdict(grown) for what, grown in series.items()},
        "extrapolated": extrapolated(series),
    }


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few sizes; writes no page")
    parser.add_argument("--fresh", action="store_true", help="run stored jobs again")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument(
        "--only", default=",".join(SERIES), help="what grows; sites always [default: %(default)s]"
    )
    options = parser.parse_args()
    names = ["sites", *options.only.split(",")]
    if unknown := sorted(set(names) - SERIES.keys()):
        parser.error(f"nothing here is called {unknown[0]}; there are {', '.join(SERIES)}")
    series = measure(names, quick=options.quick, fresh=options.fresh)
    if not options.quick:
        write_section(TABLE, page(series))
        write_plot(TABLE, draw(series))
    found = keys(series)
    if options.json:
        print(json.dumps(found))
        return
    for name in ("server_mib_64_over_2", "seconds_exponent_sites"):
        print(f"{name:24} {found[name]}")


if __name__ == "__main__":
    main()
