"""A round across hosts: bytes and seconds, against Flower's plain FedAvg of the same adapter.

    python benchmarks/deploy.py                    # as root; about 15 minutes
    python benchmarks/deploy.py --quick --json     # 4 to 8 minutes

Hosts are network namespaces of this machine (``sealtune.demo.hosts``): a coordinator, a server and
three sites; once with plain links, and once with the site west at 50 ms (there and back) and
20 Mbit/s. On each, both sides run at the same time and take orders in turn:

    Flower      its SuperLink, SuperNodes and SuperExecs as they ship, TLS, a ServerApp with FedAvg
                on the server's host, a ClientApp that adds a number to the adapter
    sealtune    relay, link and nodes, TLS, and behind them a server and sites that do the same, in
                place of enclaves: real handshakes and sealed messages, no model

The adapter is float32: LoRA of rank 8 on q, k, v, o of SmolLM2-135M is 921,600 numbers. For Flower
it is one array, which is faster than the 240 of a state dict (``state_dict_seconds``).

Keys of the JSON line, each by link:

    round_seconds_ratio   sealtune's median round over Flower's, with nothing to compute
    bytes_ratio           all bytes that hosts send in a round, sealtune's over Flower's
    idle_round_seconds    sealtune's median round of one number; ``flower_idle_round_seconds``
    rounds                everything by link and adapter: seconds of each round, bytes of the
                          sites' links and of the server's

Bytes are those of frames at each host's device. The first round of each side, with its handshakes
and what Flower installs, is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from deploy_flower import Flower
from deploy_gate import Order
from deploy_parties import SITES
from deploy_sealtune import Sealtune
from deploy_side import Side
from output import progress, table
from sealtune.demo.hosts import Hosts, missing

LINKS = {"plain": {}, "west at 50 ms, 20 Mbit/s": {"delay_ms": 25.0, "mbit": 20.0}}
ADAPTER = 921_600  # numbers
LARGE = 4 * ADAPTER


@dataclass(frozen=True)
class Case:
    """Rounds that are compared.

    Attributes:
        name: of the case.
        values: numbers in the adapter.
        work: seconds that a site trains.
        arrays: that Flower's app cuts it into.
        rounds: one after another, each time.
        once: Flower's side alone, and not repeated.
    """

    name: str
    values: int
    work: float = 0.0
    arrays: int = 1
    rounds: int = 3
    once: bool = False

    @property
    def order(self) -> Order:
        """As the programs take it."""
        return Order(self.rounds, self.values, self.arrays, self.work)


QUICK = (Case("idle", 1, rounds=2), Case("adapter", ADAPTER, rounds=2))
WHOLE = (
    Case("idle", 1),
    Case("adapter", ADAPTER),
    Case("adapter, 5 s of training", ADAPTER, work=5.0),
    Case("adapter of rank 32", LARGE),
)
STATE_DICT = Case("adapter in 240 arrays", ADAPTER, arrays=240, rounds=2, once=True)


@dataclass
class Figures:
    """What rounds of one case took.

    Attributes:
        seconds: of each round.
        sites, server: bytes of a round on the links of all sites, and on the server's; both ways;
            of each block of rounds.
    """

    seconds: list[float] = field(default_factory=list)
    sites: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)

    @property
    def bytes(self) -> float:
        """Of a round: every frame passes the coordinator, so these are all."""
        return statistics.median(self.sites) + statistics.median(self.server)

    def summary(self) -> dict[str, Any]:
        """For the JSON line."""
        return {
            "seconds": [round(seconds, 3) for seconds in self.seconds],
            "median_seconds": round(statistics.median(self.seconds), 3),
            "sites_bytes": round(statistics.median(self.sites)),
            "server_bytes": round(statistics.median(self.server)),
        }


def carried(hosts: Hosts, names: tuple[str, ...]) -> int:
    """Bytes that hosts have sent and received so far."""
    traffic = [hosts[name].traffic() for name in names]
    return sum(one.sent + one.received for one in traffic)


def measure(hosts: Hosts, side: Side, case: Case, figures: Figures) -> None:
    """Some rounds of one side."""
    before = carried(hosts, SITES), carried(hosts, ("server",))
    figures.seconds += side.run(case.order)
    figures.sites.append((carried(hosts, SITES) - before[0]) / case.rounds)
    figures.server.append((carried(hosts, ("server",)) - before[1]) / case.rounds)


def compare(
    link: dict[str, float], cases: list[Case], repeats: int, report: Callable[[str], None]
) -> dict[str, dict[str, Figures]]:
    """Both sides on hosts of which west has ``link``: case -> side -> figures."""
    figures = {
        case.name: {"flower": Figures()} | ({} if case.once else {"sealtune": Figures()})
        for case in cases
    }
    with tempfile.TemporaryDirectory(prefix="deploy") as folder, Hosts(Path(folder)) as hosts:
        for name in ("coordinator", "server", *SITES):
            hosts.add(name, **(link if name == "west" else {}))
        sides = (Flower(hosts), Sealtune(hosts))
        for side in sides:
            side.run(Order(1, 1, 1, 0.0))
        report("started")
        for repeat in range(repeats):
            for case in [case for case in cases if not (case.once and repeat)]:
                for side in sides:
                    if side.name in figures[case.name]:
                        measure(hosts, side, case, figures[case.name][side.name])
                report(f"{case.name}, {repeat + 1} of {repeats}")
    return figures


def quartiles(values: list[float]) -> str:
    """Median and quartiles, in seconds."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def show(found: dict[str, dict[str, dict[str, Figures]]]) -> None:
    """Print tables."""
    rows = []
    for link, cases in found.items():
        for case, sides in cases.items():
            for side, one in sides.items():
                kilobytes = [statistics.median(part) / 1000 for part in (one.sites, one.server)]
                numbers = [f"{number:,.1f}" for number in kilobytes]
                rows.append((link, case, side, quartiles(one.seconds), *numbers))
    columns = ("link", "adapter", "side", "seconds of a round", "kB, sites", "kB, server")
    Console(width=200).print(table("Rounds, median (quartiles)", columns, rows))


def summarise(found: dict[str, dict[str, dict[str, Figures]]]) -> dict[str, Any]:
    """The JSON line."""
    result: dict[str, Any] = {
        "round_seconds_ratio": {},
        "bytes_ratio": {},
        "sites_bytes_ratio": {},
        "idle_round_seconds": {},
        "flower_idle_round_seconds": {},
        "state_dict_seconds": None,
    }
    for link, cases in found.items():
        ours, flowers = cases["adapter"]["sealtune"], cases["adapter"]["flower"]
        seconds = [statistics.median(side.seconds) for side in (ours, flowers)]
        result["round_seconds_ratio"][link] = round(seconds[0] / seconds[1], 3)
        result["bytes_ratio"][link] = round(ours.bytes / flowers.bytes, 4)
        sites = [statistics.median(side.sites) for side in (ours, flowers)]
        result["sites_bytes_ratio"][link] = round(sites[0] / sites[1], 4)
        for side, key in (("sealtune", ""), ("flower", "flower_")):
            idle = statistics.median(cases["idle"][side].seconds)
            result[f"{key}idle_round_seconds"][link] = round(idle, 3)
        if STATE_DICT.name in cases:
            median = statistics.median(cases[STATE_DICT.name]["flower"].seconds)
            result["state_dict_seconds"] = round(median, 3)
    result["rounds"] = {
        link: {
            case: {side: one.summary() for side, one in sides.items()}
            for case, sides in cases.items()
        }
        for link, cases in found.items()
    }
    return result


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, one size")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    if reason := missing():
        raise SystemExit(f"no hosts can be made here: {reason}")
    repeats = 2
    found = {}
    plan = {link: list(QUICK if options.quick else WHOLE) for link in LINKS}
    if not options.quick:
        plan["plain"].append(STATE_DICT)
    steps = sum(1 + sum(1 if c.once else repeats for c in cases) for cases in plan.values())
    with progress(steps) as report:
        for link, cases in plan.items():
            found[link] = compare(
                LINKS[link], cases, repeats, lambda text, link=link: report(f"{link}: {text}")
            )
    show(found)
    result = summarise(found)
    for name, value in result.items():
        if name != "rounds":
            print(f"{name:26} {value}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
