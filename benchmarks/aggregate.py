"""Aggregation: its memory and speed, exact means of products, and what attacks cost.

    python benchmarks/aggregate.py                          # everything; the attacks take longest
    python benchmarks/aggregate.py --quick --json           # smaller, for a look
    python benchmarks/aggregate.py --only stream,exact      # without model and data

Keys of the JSON line:

    peak_mib            memory above idle while 64 updates of 50 MB are aggregated
    throughput_ratio    of that round, against one numpy pass that reads and sums the same bytes
    exact_err           the rule "exact" against averaging merged weights, relative
    worst_drop_default  points of accuracy that the defaults lose under the worst attack

and, under each section's name, all that it measured. `attacks` needs what `sealtune demo-data` and
`sealtune demo-model` fetch.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table


@dataclass(frozen=True)
class Measured:
    """A section that was measured: the keys of it that the JSON line has, and tables for people."""

    result: Mapping[str, Any]
    keys: tuple[str, ...]
    tables: tuple[Table, ...]


def stream(options: argparse.Namespace, advance: Callable[[str], None]) -> Measured:
    """Memory and speed."""
    import aggregate_stream

    result = aggregate_stream.measure(quick=options.quick, advance=advance)
    keys = ("peak_mib", "throughput_ratio")
    return Measured(result, keys, (aggregate_stream.table(result),))


def exact(options: argparse.Namespace, advance: Callable[[str], None]) -> Measured:
    """The rule ``exact``, sites of three ranks."""
    import aggregate_exact

    result = aggregate_exact.measure(quick=options.quick, advance=advance)
    table = Table("rank", "round", "error", "averaging factors", "not held by the rank")
    for row in result["rounds"]:
        shown = [f"{row[key]:.1e}" for key in ("error", "factor_error", "residual")]
        table.add_row(str(row["rank"]), str(row["round"]), *shown)
    return Measured(result, ("exact_err",), (table,))


def attacks(options: argparse.Namespace, advance: Callable[[str], None]) -> Measured:
    """One of five sites attacks."""
    import aggregate_attacks

    result = aggregate_attacks.measure(
        quick=options.quick, advance=advance, model=options.model, data=options.data
    )
    return Measured(result, ("worst_drop_default",), (aggregate_attacks.table(result),))


SECTIONS = {one.__name__: one for one in (stream, exact, attacks)}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rows and seeds")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument(
        "--only", default=",".join(SECTIONS), help="sections [default: %(default)s]"
    )
    parser.add_argument("--model", default="demo/model", help="for attacks [default: %(default)s]")
    parser.add_argument("--data", default="demo/data", help="for attacks [default: %(default)s]")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := sorted(set(names) - SECTIONS.keys()):
        parser.error(f"there is no section {unknown[0]}; there are {', '.join(SECTIONS)}")
    line: dict[str, Any] = {}
    console = Console()
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for name in names:
            task = bar.add_task(name, total=None)
            measured = SECTIONS[name](
                options,
                lambda done, task=task, name=name: bar.update(task, description=f"{name}: {done}"),  # type: ignore[misc]
            )
            bar.update(task, total=1, completed=1)
            line |= {key: measured.result[key] for key in measured.keys}
            line[name] = dict(measured.result)
            for table in measured.tables:
                console.print(table)
    if options.json:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
