"""The same adapter by other ways: Flower plain and with SecAgg+, CKKS, and each of sealtune's.

    python benchmarks/peers.py                  # what is not stored is run: ten minutes of a core
    python benchmarks/peers.py --quick --json   # two rounds, few rows; writes no page
    python benchmarks/peers.py --model demo/model --data demo/data

Three sites tune LoRA of rank 8 on the first blocks of SmolLM2-135M and rows of ICD-10-CM: same
model, rows, order and steps (``peers_job.py``). Every way runs in a process of its own, with all
its parties in it. Keys of the JSON line:

    ways     way -> ``seconds``, ``bytes``, ``mib`` and ``right`` (percent), as measured
    ratios   the same over Flower's plain FedAvg, but ``right_minus_plain``, in points
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from page import markdown_table, write_section
from peers_job import run
from sealtune.job.units import size
from stored_jobs import Stored, stored

TABLE = "peers"
PLAIN = "flower"
SETTING = {"set": "icd10", "blocks": 6, "rows": 600, "test": 300, "tokens": 16, "rounds": 4,
           "steps": 8, "rate": 3e-3, "seed": 1}  # fmt: skip
QUICK = {"blocks": 2, "rows": 120, "test": 40, "rounds": 2, "steps": 2}

# way -> what it is called, what it keeps from whom
MEANS: Mapping[str, tuple[str, str]] = {
    "flower": ("Flower, FedAvg", "rows stay at their site; the server reads every update"),
    "flower_secaggplus": (
        "Flower, SecAgg+",
        "single updates from a server that keeps to the protocol: it hands out the sites' keys, "
        "which nobody signs",
    ),
    "ckks": (
        "FedAvg under CKKS (TenSEAL)",
        "updates and their mean from the server; all sites share one secret key, so from no server "
        "that has one site on its side",
    ),
    "secure_aggregation": (
        "sealtune, secure aggregation",
        "single updates from a server, whatever it does with the keys, which are signed, unless a "
        "third of the sites are on its side",
    ),
    "enclave": (
        "sealtune, whole model in each site's enclave",
        "text, adapter and updates from server, network and the operators of all machines",
    ),
    "masked": (
        "sealtune, Method 1, masked",
        "the same, and from the accelerator that computes the frozen layers outside the enclave",
    ),
    "split": (
        "sealtune, Method 2, split",
        "text and adapter from the server's operator and network; sites have no TEE and trust "
        "their own machines",
    ),
}


def measure(options: argparse.Namespace) -> dict[str, Stored]:
    """Every way."""
    setting = SETTING | (QUICK if options.quick else {})
    places = {"model": options.model, "data": options.data}
    asked = [{**setting, "way": way} for way in MEANS]
    table = f"{TABLE}-quick" if options.quick else TABLE
    jobs = stored(table, asked, _At(places), fresh=options.fresh)
    return dict(zip(MEANS, jobs, strict=True))


class _At:
    """``run`` with the places of model and data, which no result follows from."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __call__(self, settings: dict[str, Any]) -> dict[str, Any]:
        return run({**settings, **self._places})


def ways(jobs: Mapping[str, Stored]) -> dict[str, dict[str, float]]:
    """As measured."""
    return {way: _figures(job.figures) for way, job in jobs.items()}


def _figures(found: Mapping[str, Any]) -> dict[str, float]:
    right = 100 * found["correct"] / found["total"]
    return {"seconds": found["seconds"], "bytes": found["up"] + found["down"], "mib": found["mib"],
            "right": round(right, 2)}  # fmt: skip


def ratios(measured: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Over Flower's plain FedAvg."""
    plain = measured[PLAIN]
    return {
        way: {name: round(own[name] / plain[name], 3) for name in ("seconds", "bytes", "mib")}
        | {"right_minus_plain": round(own["right"] - plain["right"], 2)}
        for way, own in measured.items()
    }


def page(jobs: Mapping[str, Stored]) -> str:
    """The section."""
    measured = ways(jobs)
    rows = []
    for way, ratio in ratios(measured).items():
        name, keeps = MEANS[way]
        costs = [f"{ratio[cost]:.2f}" for cost in ("seconds", "bytes", "mib")]
        right = f"{measured[way]['right']:.1f} ({ratio['right_minus_plain']:+.1f})"
        rows.append((name, *costs, right, keeps))
    columns = ("way", "time", "bytes", "memory", "right, %", "what it keeps from whom")
    plain, total = measured[PLAIN], jobs[PLAIN].figures["total"]
    return "\n\n".join((
        f"Ratios to Flower's plain FedAvg ({plain['seconds']:.0f} processor seconds, "
        f"{size(int(plain['bytes']))} of messages, {plain['mib']:.0f} MiB). Three sites, LoRA "
        f"of rank 8 on the first {SETTING['blocks']} blocks of SmolLM2-135M, {SETTING['rows']} "
        f"rows of ICD-10-CM (Dirichlet, 5.0) of {SETTING['tokens']} tokens, {SETTING['rounds']} "
        f"rounds of {SETTING['steps']} steps of 8 rows at each site, one seed, {total} test "
        "rows. Time is processor seconds of all parties up to the end of the last round, with the "
        "evaluation before the first; memory what one process takes that holds all parties, their "
        "models and accelerators. Method 2 takes as many steps as all sites together, on "
        "everybody's rows, behind the third block.",
        markdown_table(columns, rows),
        "Flower's workflow, mod and strategies are its own; its messages are serialised and "
        "read, and travel through no network, as sealtune's do here. CKKS has ring dimension "
        "8192, moduli of 60, 40 and 40 bits and scale 2^40. Enclaves are processes: what memory "
        "encryption costs is in none of these figures.",
    ))  # fmt: skip


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="two rounds, few rows; no page")
    parser.add_argument("--fresh", action="store_true", help="run stored jobs again")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--model", default="demo/model", help="folder [default: %(default)s]")
    parser.add_argument("--data", default="demo/data", help="folder [default: %(default)s]")
    options = parser.parse_args()
    jobs = measure(options)
    if not options.quick:
        write_section(TABLE, page(jobs))
    measured = ways(jobs)
    if options.json:
        print(json.dumps({"ways": measured, "ratios": ratios(measured)}))
        return
    for way, own in measured.items():
        print(f"{way:20} {own}")


if __name__ == "__main__":
    main()
