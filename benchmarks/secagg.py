"""Secure sums: seconds and bytes of one sum, whether it is exact, and what the server's view tells.

    python benchmarks/secagg.py                    # 5, 16 and 64 sites
    python benchmarks/secagg.py --quick --json     # 5 sites and 16, within a minute on 2 cores
    python benchmarks/secagg.py --values 13000000  # 50 MB of float32 each

Keys of the JSON line:

    exact           whether every sum was the plain one modulo 2^64, also with one site in five lost
                    at each of the five stages
    chi_square_p    smallest p-value of Pearson's chi-square over the bytes of each masked vector
    off_p           the largest of the same vectors without masks
    runs            for each number of sites: processor seconds of one site and of the server, with
                    and without a lost site, and bytes of one site, sent and received, besides the
                    global adapter; ``plain_bytes``: an update as float32

Bytes are those of the protocol, before seals and frames.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy import stats

from sealtune.job.units import size
from sealtune.secure_sum import member as member_module
from sealtune.secure_sum.collector import Collector
from sealtune.secure_sum.graph import degree
from sealtune.secure_sum.member import Member
from sealtune.secure_sum.ring import FixedPoint, Vector, to_bytes
from sealtune.secure_sum.terms import Terms

T = TypeVar("T")
STAGES = ("keys", "shares", "vector", "survivors", "unmask")
SUBJECT = bytes(32)
ROWS = 500


@dataclass
class Cost:
    """What one sum took."""

    sites: float = 0.0  # processor seconds, of all
    server: float = 0.0
    up: int = 0  # bytes, of all sites
    down: int = 0


@dataclass
class Trial:
    """One sum of vectors as of a round of training.

    Attributes:
        lost: stage -> the sites that answer until then.
    """

    vectors: Mapping[str, Vector]
    lost: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    seen: list[Vector] = field(default_factory=list)

    def __post_init__(self) -> None:
        keys = {site: Ed25519PrivateKey.generate() for site in self.vectors}
        self.terms = Terms(
            job_id=bytes(48),
            number=1,
            keys={site: key.public_key() for site, key in keys.items()},
            organisations={site: site for site in self.vectors},
            least_sites=3,
            least_organisations=3,
        )
        self.members = {site: Member(self.terms, site, key) for site, key in keys.items()}
        length = len(next(iter(self.vectors.values())))
        self.server = Collector(self.terms, length, SUBJECT)
        self.gone: set[str] = set()

    def site(self, work: Callable[..., T], *given: Any) -> T:
        """Something that a site computes."""
        start = time.process_time()
        result = work(*given)
        self.cost.sites += time.process_time() - start
        return result

    def at_server(self, work: Callable[..., T], *given: Any) -> T:
        """Something that the server computes."""
        start = time.process_time()
        result = work(*given)
        self.cost.server += time.process_time() - start
        return result

    def to_server(
        self, site: str, check: Callable[..., T], take: Callable[..., None], sent: Any
    ) -> None:
        """A site's answer."""
        self.cost.up += len(sent) if isinstance(sent, bytes) else sum(map(len, sent.values()))
        self.at_server(take, site, self.at_server(check, site, sent))

    def here(self, stage: str, sites: list[str]) -> list[str]:
        """Those that still answer."""
        self.gone |= set(self.lost.get(stage, ()))
        return [site for site in sites if site not in self.gone]

    def run(self) -> Vector:
        """All five stages."""
        self.collect()
        return self.unmask()

    def collect(self) -> None:
        """Up to the masked vectors."""
        server, cost = self.server, self.cost
        for site in self.here("keys", list(self.members)):
            data = self.site(self.members[site].advertise)
            self.to_server(site, server.check_keys, server.take_keys, data)
        roster = server.roster.encoded
        for site in self.here("shares", list(roster)):
            cost.down += sum(map(len, roster.values()))
            sealed = self.site(self.members[site].share, roster)
            self.to_server(site, server.check_shares, server.take_shares, sealed)
        sharers = sorted(server.sealed)
        for site in self.here("vector", sharers):
            member, given = self.members[site], server.sealed_for(site)
            cost.down += sum(map(len, given.values()))
            self.site(member.receive, sharers, given, SUBJECT)
            masked = self.site(member.mask, self.vectors[site])
            self.seen.append(masked)
            self.to_server(site, server.check_vector, server.take_vector, to_bytes(masked))

    def unmask(self) -> Vector:
        """From there on."""
        server, cost = self.server, self.cost
        survivors = sorted(server.survivors)
        for site in self.here("survivors", survivors):
            signature = self.site(self.members[site].confirm, survivors)
            self.to_server(site, server.check_signature, server.take_signature, signature)
        signatures = dict(server.signatures)
        for site in self.here("unmask", sorted(signatures)):
            cost.down += sum(map(len, signatures.values()))
            given = self.site(self.members[site].unmask, signatures)
            self.to_server(site, server.check_given, server.take_given, given)
        return self.at_server(server.result)

    def is_exact(self) -> bool:
        """Whether the sum is that of the survivors' vectors."""
        total = self.run()
        plain = np.zeros_like(total)
        for site in self.server.survivors:
            plain += self.vectors[site]
        return bool(np.array_equal(total, plain))


def make_vectors(sites: int, values: int) -> dict[str, Vector]:
    """Updates around zero, as sites encode them."""
    generator = np.random.default_rng(1)
    fixed = FixedPoint(512 * 1e-3 * 20, ROWS * sites)
    return {
        f"site-{number:02}": fixed.encode(generator.normal(0, 1e-3, values), ROWS)
        for number in range(sites)
    }


def uniformity(vector: Vector) -> float:
    """The p-value of Pearson's chi-square over the 256 values of a vector's bytes."""
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    return float(stats.chisquare(counts).pvalue)


@contextmanager
def without_masks() -> Iterator[None]:
    """Sites that mask nothing."""
    with (
        mock.patch.object(member_module, "add_mask"),
        mock.patch.object(member_module, "add_pair_mask"),
    ):
        yield


def measure_cost(sites: int, values: int) -> dict[str, Any]:
    """One sum of so many sites, and one in which a site is lost after the shares."""
    vectors = make_vectors(sites, values)
    whole, short = Trial(vectors), Trial(vectors, {"vector": ("site-00",)})
    exact = whole.is_exact() and short.is_exact()
    return {
        "sites": sites,
        "values": values,
        "neighbours": min(degree(sites), sites - 1),
        "exact": exact,
        "site_seconds": round(whole.cost.sites / sites, 3),
        "server_seconds": round(whole.cost.server, 3),
        "server_seconds_one_lost": round(short.cost.server, 3),
        "up_bytes": whole.cost.up // sites,
        "down_bytes": whole.cost.down // sites,
        "plain_bytes": 4 * values,
    }


def measure(counts: list[int], values: int, bar: Progress) -> dict[str, Any]:
    """Everything."""
    task = bar.add_task("secure sums", total=len(counts) + len(STAGES) + 2)
    vectors = make_vectors(5, values)
    exact = []
    for stage in STAGES:
        exact.append(Trial(vectors, {stage: ("site-02",)}).is_exact())
        bar.advance(task)
    masked = Trial(vectors)
    exact.append(masked.is_exact())
    bar.advance(task)
    with without_masks():
        bare = Trial(vectors)
        bare.collect()
    bar.advance(task)
    runs = []
    for sites in counts:
        runs.append(measure_cost(sites, values))
        bar.advance(task)
    return {
        "exact": all(exact) and all(run["exact"] for run in runs),
        "chi_square_p": min(map(uniformity, masked.seen)),
        "off_p": max(map(uniformity, bare.seen)),
        "runs": runs,
    }


def show(result: Mapping[str, Any], console: Console) -> None:
    """Tables for people."""
    table = Table("sites", "near", "site, s", "server, s", "one lost, s", "sent", "got", "plain")
    for run in result["runs"]:
        counts = [str(run[key]) for key in ("sites", "neighbours", "site_seconds")]
        seconds = [str(run[key]) for key in ("server_seconds", "server_seconds_one_lost")]
        bytes_ = [size(run[key]) for key in ("up_bytes", "down_bytes", "plain_bytes")]
        table.add_row(*counts, *seconds, *bytes_)
    console.print(table)
    console.print(f"every sum exact, one of five lost at each stage: {result['exact']}")
    console.print(f"chi-square p, masked: {result['chi_square_p']:.3g} at least")
    console.print(f"chi-square p, masks off: {result['off_p']:.3g} at most")


def main() -> None:
    """Parse the command line, measure, print."""
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(
        description=description,
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer sites and values")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--values", type=int, help="numbers in a vector [default: 1,000,000]")
    options = parser.parse_args()
    values = options.values or (100_000 if options.quick else 1_000_000)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        result = measure([5, 16] if options.quick else [5, 16, 64], values, bar)
    show(result, Console())
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
