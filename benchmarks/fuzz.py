"""Fuzz every parser that takes bytes from outside: nothing may escape, hang or eat memory.

    python benchmarks/fuzz.py                      # 470,000 inputs
    python benchmarks/fuzz.py --quick --json       # 119,000, within 4 minutes on 2 cores
    python benchmarks/fuzz.py --only manifest --seed 7

Inputs are made from valid seeds: bits flipped, fields overwritten with extreme numbers, cut,
repeated, spliced; JSON with a value replaced by something nasty, its lengths put right again; and
random bytes. Where the recorded evidence of real machines is at hand it is a seed, else made-up
evidence of the same layout.

Keys of the JSON line:

    inputs       how many were parsed
    escapes      exceptions outside `SealtuneError`, inputs slower than 10 s, and running out of the
                 512 MiB that a parser may add to the process; the script fails if there is one
    slowest_ms   the slowest input
    peak_mib     the most memory that the inputs of one parser added
    parsers      the same for each, with what was accepted, and what refused by which class
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_evidence import Target
from fuzz_targets import make_targets
from sealtune.errors import SealtuneError

LIMIT_SECONDS = 10
LIMIT_BYTES = 512 << 20


class Hang(BaseException):
    """An input took too long."""


@dataclass
class Result:
    """What became of one parser's inputs."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    escapes: list[str] = field(default_factory=list)
    slowest_ms: float = 0.0
    peak_mib: float = 0.0


def status(name: str) -> int:
    """A figure of this process in bytes, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise SystemExit(f"/proc/self/status has no {name}")


def reset_peak() -> None:
    """Let the kernel count the peak of resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _hang(_signal: int, _frame: FrameType | None) -> None:
    raise Hang


def run(target: Target, count: int, seed: str) -> Result:
    """Parse ``count`` inputs."""
    draw, result = random.Random(f"{seed}/{target.name}"), Result()
    for parse_seed in target.seeds:
        outcome(target.parse, parse_seed, Result())  # imports and caches
    reset_peak()
    before = status("VmRSS")
    for _ in range(count):
        data = target.make(draw)
        start = time.perf_counter()
        outcome(target.parse, data, result)
        result.slowest_ms = max(result.slowest_ms, 1e3 * (time.perf_counter() - start))
        result.inputs += 1
    result.peak_mib = max(0, status("VmHWM") - before) / (1 << 20)
    return result


def outcome(parse: Callable[[bytes], object], data: bytes, result: Result) -> None:
    """Parse one input and count what happened."""
    signal.alarm(LIMIT_SECONDS)
    try:
        refusal = parse(data)
        signal.alarm(0)
        # A parser behind a socket answers with the name of the class.
        if isinstance(refusal, str):
            result.refused[refusal] += 1
        else:
            result.accepted += 1
    except SealtuneError as error:
        signal.alarm(0)
        result.refused[type(error).__name__] += 1
    except (Exception, Hang) as error:
        signal.alarm(0)
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}"[:160]
        result.escapes.append(f"{said} at {where.filename}:{where.lineno}, input {data[:400]!r}")


def show(name: str, result: Result) -> None:
    """One line for a parser, and its escapes."""
    refused = ", ".join(f"{kind} {count}" for kind, count in result.refused.most_common(4))
    print(
        f"{name:22} {result.inputs:7,} inputs {result.accepted:6,} accepted "
        f"{result.slowest_ms:8.1f} ms {result.peak_mib:6.1f} MiB  {refused}",
        flush=True,
    )
    kinds: Counter[str] = Counter(escape.partition(", input ")[0] for escape in result.escapes)
    for kind, count in kinds.most_common(5):
        example = next(e for e in result.escapes if e.startswith(kind))
        print(f"    ESCAPED {count} times: {example}")


def as_object(results: dict[str, Result]) -> dict[str, Any]:
    """The JSON line."""
    return {
        "inputs": sum(r.inputs for r in results.values()),
        "escapes": sum(len(r.escapes) for r in results.values()),
        "slowest_ms": round(max(r.slowest_ms for r in results.values()), 1),
        "peak_mib": round(max(r.peak_mib for r in results.values()), 1),
        "parsers": {
            name: {
                "inputs": r.inputs,
                "accepted": r.accepted,
                "refused": dict(r.refused.most_common()),
                "escapes": len(r.escapes),
                "slowest_ms": round(r.slowest_ms, 1),
                "peak_mib": round(r.peak_mib, 1),
            }
            for name, r in results.items()
        },
    }


def main() -> int:
    """Parse the command line, fuzz, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the inputs")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--only", default="", help="parsers with this in their name")
    parser.add_argument("--share", type=float, default=1.0, help="of that number of inputs")
    parser.add_argument("--seed", default="0", help="of the inputs")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _hang)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets = [t for t in make_targets(Path(folder)) if options.only in t.name]
        if not targets:
            raise SystemExit(f"no parser with {options.only!r} in its name")
        size = status("VmSize") + LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
        for target in targets:
            count = options.share * target.count * (1 if options.quick else 4)
            results[target.name] = run(target, max(1, int(count)), options.seed)
            show(target.name, results[target.name])
    summary = as_object(results)
    print(
        f"{summary['inputs']:,} inputs, {summary['escapes']} escapes, slowest "
        f"{summary['slowest_ms']} ms, at most {summary['peak_mib']} MiB added"
    )
    if options.json:
        print(json.dumps(summary))
    return 1 if summary["escapes"] else 0


if __name__ == "__main__":
    sys.exit(main())
