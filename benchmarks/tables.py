"""The tables of docs/benchmarks.md: accuracy, ratios of heads, cost.

    python benchmarks/tables.py                   # about two hours of two cores; needs demo/
    python benchmarks/tables.py --quick --json    # one set, one seed: within 4 minutes
    python benchmarks/tables.py --only table-1

    table-1   accuracy of each method and of its baselines on five medical sets (table_accuracy)
    table-2   accuracy, steps and parameters by share of the heads (table_ratios)
    table-3   seconds, memory and bytes of each way to compute (table_costs)

Data sets that are not there are made from published packages. Results are stored job by job, so a
benchmark that is cut short goes on, and one whose jobs are all stored only writes the page. On a
CUDA device Table 1 takes the whole model and longer texts.

Keys of the JSON line: those of the tables; ``masked_minus_plain``, ``federated_minus_pooled``,
``federated_minus_local_mean`` are of Table 1.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import table_accuracy
import table_accuracy_page
import table_costs
import table_ratios
import top_jobs
from demo_rows import SETS
from page import write_section
from sealtune.demo.data_sets import DATA_SETS
from table_accuracy import CPU, CUDA, DEVICE, Places, Wanted, accuracies

TABLES = ("table-1", "table-2", "table-3")


def table_1(options: argparse.Namespace) -> dict[str, Any]:
    """Accuracy."""
    size = CUDA if DEVICE == "cuda" else CPU
    wanted = Wanted(size, options.sets, seeds=tuple(range(1, options.seeds + 1)))
    if options.quick:
        quick = replace(size, train=120, test=60, rounds=2)
        wanted = Wanted(quick, ("hpo",), seeds=(1,), tuned_on=("hpo",))
    places = Places(options.model, options.data)
    table = table_accuracy.TABLE + "-quick" * options.quick
    jobs = accuracies(wanted, places, table=table, workers=options.workers, fresh=options.fresh)
    found = table_accuracy_page.figures(wanted, jobs)
    if not options.quick:
        write_section(table_accuracy.TABLE, table_accuracy_page.markdown(wanted, found))
        table_accuracy_page.draw(wanted, found)
    return found


def table_2(options: argparse.Namespace) -> dict[str, Any]:
    """Shares of the heads."""
    place = top_jobs.Place(str(options.model), str(options.data))
    found = table_ratios.ratios(
        place, quick=options.quick, workers=options.workers, fresh=options.fresh
    )
    if not options.quick:
        write_section(table_ratios.TABLE, table_ratios.markdown(found))
    return table_ratios.figures(found)


def table_3(options: argparse.Namespace) -> dict[str, Any]:
    """Cost."""
    jobs = table_costs.costs(options.model, options.data, quick=options.quick, fresh=options.fresh)
    if not options.quick:
        write_section(table_costs.TABLE, table_costs.markdown(jobs))
    return table_costs.figures(jobs)


def main() -> None:
    """Parse options, run, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(TABLES), help="tables, with commas")
    parser.add_argument("--model", type=Path, default=Path("demo/model"), help="its folder")
    parser.add_argument("--data", type=Path, default=Path("demo/data"), help="folder of the sets")
    parser.add_argument("--sets", default=",".join(SETS), help="of table 1, with commas")
    parser.add_argument("--seeds", type=int, default=3, help="of table 1")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one set, one seed; no page")
    parser.add_argument("--fresh", action="store_true", help="run stored jobs again")
    parser.add_argument("--json", action="store_true", help="last line is one JSON object")
    options = parser.parse_args()
    options.sets = tuple(options.sets.split(","))
    for name in options.sets:
        DATA_SETS[name].make(options.data / name, lambda said: None)
    run = {"table-1": table_1, "table-2": table_2, "table-3": table_3}
    found: dict[str, Any] = {}
    for table in options.only.split(","):
        found |= run[table](options)
    if options.json:
        print(json.dumps(found, sort_keys=True))


if __name__ == "__main__":
    main()
