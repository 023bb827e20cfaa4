"""Would the tests notice? One change at a time is made to a copy of the tree, and tests are run.

    python benchmarks/mutants.py frames job            # all mutants of these rooms; hours
    python benchmarks/mutants.py attest --sample 120 --seed 0 --without-evidence
    python benchmarks/mutants.py channel --only stream.py --list
    python benchmarks/mutants.py job --sample 120 --again       # survivors of before once more

A comparison is turned, a number moved, a condition negated, a raise or a check's call taken out.
Nothing is changed in place. What came out is kept in `runs/mutants.json` after each mutant, and a
trial that was interrupted goes on from there. `mutants_explained.toml` names survivors that are
equal in effect, or that no test should hold; these do not count.

    pip install 'sealtune[dev,bench]'

Keys of the JSON line, per room:

    all          mutants tried
    noticed      a test failed, or they did not end in four times the usual processor time
    explained    survivors with a reason
    share        noticed / (all - explained)
    survivors    those without a reason
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

sys.path.insert(0, str(Path(__file__).parent))

from mutants_made import Mutant, make
from mutants_run import Forks, forks

ROOT = Path(__file__).parents[1]
EXPLAINED = Path(__file__).parent / "mutants_explained.toml"
SOURCE = "src/sealtune"


@dataclass(frozen=True)
class Room:
    """Files that are mutated, and the folders or files of tests that ought to notice."""

    sources: str
    tests: tuple[str, ...]


ROOMS = {
    "frames": Room(f"{SOURCE}/frames.py", ("tests/test_frames.py",)),
    "job": Room(f"{SOURCE}/job", ("tests/job",)),
    "channel": Room(f"{SOURCE}/channel", ("tests/channel",)),
    "attest": Room(f"{SOURCE}/attest", ("tests/attest", "tests/cli/test_attest.py")),
    "offload": Room(f"{SOURCE}/offload", ("tests/offload", "tests/accelerator")),
}


@dataclass(frozen=True)
class Explained:
    """Survivors that do not count: every mutant of a line by an operator, or one of them."""

    file: str
    line: str
    operator: str
    becomes: str | None
    reason: str

    def covers(self, mutant: Mutant) -> bool:
        """Whether the reason is about this mutant."""
        same = (self.file, self.line, self.operator) == (mutant.file, mutant.line, mutant.operator)
        return same and self.becomes in {None, mutant.becomes}


def explained(path: Path) -> list[Explained]:
    """The file of survivors with a reason."""
    entries = tomllib.loads(path.read_text()).get("survivor", []) if path.exists() else []
    return [
        Explained(
            f"{SOURCE}/{one['file']}",
            one["line"],
            one["operator"],
            one.get("becomes"),
            one["reason"],
        )
        for one in entries
    ]


def mutants_of(tree: Path, room: Room, only: str, sample: int, seed: int) -> list[Mutant]:
    """The mutants of a room, or a sample of them that the seed draws."""
    source = tree / room.sources
    paths = sorted(source.rglob("*.py")) if source.is_dir() else [source]
    paths = [path for path in paths if path.name != "__init__.py" and only in str(path)]
    made = [mutant for path in paths for mutant in make(tree, str(path.relative_to(tree)))]
    if 0 < sample < len(made):
        chosen = sorted(random.Random(seed).sample(range(len(made)), sample))
        made = [made[place] for place in chosen]
    return made


def test_files(tree: Path, room: Room) -> list[str]:
    """The test files of a room."""
    found = []
    for name in room.tests:
        path = tree / name
        files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
        found += [str(file.relative_to(tree)) for file in files if file.exists()]
    return found


def try_all(
    run: Forks, room: Room, mutants: Iterable[Mutant], timeout: float
) -> Iterator[tuple[Mutant, dict[str, Any]]]:
    """Run a room's tests on each mutant, those named like the file first, then the quick ones."""
    tests = test_files(run.root, room)
    plain = run.run(tests, (3600, 3600))
    if plain["code"] != 0:
        log = (run.root.parent / "result.log").read_text()
        raise SystemExit(f"{log[-4000:]}\nmutants: the tests fail without any change")
    # On a machine that others use too, the processor's time tells more than the clock's.
    wall = timeout or 60 + 10 * plain["wall"]
    limits = (wall, min(wall, 10 + 4 * plain["cpu"]))
    for mutant in mutants:
        stem = Path(mutant.file).stem
        ordered = sorted(tests, key=lambda t: (stem not in t, plain["seconds"].get(t, 0.0)))
        yield mutant, run.run(ordered, limits, mutant.file, mutant.text)


def figures(
    mutants: Sequence[Mutant], outcomes: dict[str, Any], reasons: Sequence[Explained]
) -> dict[str, Any]:
    """Counts of the mutants that were tried."""
    tried = [one for one in mutants if one.key in outcomes]
    survived = [one for one in tried if outcomes[one.key]["code"] == 0]
    left = [one for one in survived if not any(reason.covers(one) for reason in reasons)]
    matter = len(tried) - len(survived) + len(left)
    return {
        "all": len(tried),
        "noticed": len(tried) - len(survived),
        "explained": len(survived) - len(left),
        "share": round((len(tried) - len(survived)) / matter, 4) if matter else None,
        "survivors": [
            f"{one.file}:{one.number} {one.operator}: {one.line} -> {one.becomes}" for one in left
        ],
    }


def keep(path: Path, outcomes: dict[str, Any]) -> None:
    """Write the results so that a half-written file never stands in their place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(outcomes, indent=1))
    os.replace(beside, path)


def main() -> int:
    """Try the rooms of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rooms", nargs="*", default=[], metavar="ROOM", help=", ".join(ROOMS))
    parser.add_argument("--sample", type=int, default=0, help="so many of each room")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample")
    parser.add_argument("--only", default="", metavar="FILE", help="files whose path contains this")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    parser.add_argument("--again", action="store_true", help="run survivors of before once more")
    parser.add_argument("--timeout", type=float, default=0, help="seconds a mutant may take")
    parser.add_argument("--results", type=Path, default=ROOT / "runs" / "mutants.json")
    parser.add_argument(
        "--without-evidence", action="store_true", help="as in a clone without recorded evidence"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the copy goes in this case, too
    if unknown := set(args.rooms) - set(ROOMS):
        parser.error(f"no such room: {', '.join(sorted(unknown))}; there are {', '.join(ROOMS)}")
    evidence = os.environ.pop("SEALTUNE_FIXTURES", "")
    if evidence and not args.without_evidence:
        os.environ["SEALTUNE_FIXTURES"] = str(Path(evidence).resolve())
    kept: dict[str, Any] = json.loads(args.results.read_text()) if args.results.exists() else {}
    outcomes = kept.setdefault("without evidence" if args.without_evidence else "here", {})
    reasons, report = explained(EXPLAINED), {}
    console = Console(stderr=True)
    for name in args.rooms or ROOMS:
        mutants = mutants_of(ROOT, ROOMS[name], args.only, args.sample, args.seed)
        if args.list:
            for one in mutants:
                print(f"{one.file}:{one.number} {one.operator}: {one.line} -> {one.becomes}")
            continue
        repeat = {None, 0} if args.again else {None}
        todo = [one for one in mutants if outcomes.get(one.key, {}).get("code") in repeat]
        with forks(ROOT) as run, Progress(console=console) as bar:
            task = bar.add_task(name, total=len(todo))
            for mutant, answer in try_all(run, ROOMS[name], todo, args.timeout) if todo else ():
                outcomes[mutant.key] = {"code": answer["code"], "test": answer["test"]}
                keep(args.results, kept)
                bar.advance(task)
        report[name] = figures(mutants, outcomes, reasons)
        if not args.json:
            for survivor in report[name]["survivors"]:
                print(survivor)
            print(name, {key: value for key, value in report[name].items() if key != "survivors"})
    if args.json and not args.list:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
