"""Jobs of a benchmark whose results are kept: what is stored is not run again.

    def run(settings: dict[str, Any]) -> dict[str, Any]: ...      # at a module's top, for workers
    for job in stored("table-1", [{"set": "hpo", "seed": 1}], run, workers=2):
        job.figures["accuracy"]

``results/TABLE.jsonl`` has one job a line, in order of their settings. It is written anew, whole,
whenever a job has ended, so a benchmark that is cut short goes on where it was.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from output import progress
from sealtune.job.storage import locked, write_atomic

RESULTS = Path(__file__).parent / "results"
Settings = dict[str, Any]
Run = Callable[[Settings], dict[str, Any]]
_PACKAGES = ("sealtune", "torch", "transformers", "peft")


@dataclass(frozen=True)
class Stored:
    """One finished job.

    Attributes:
        settings: JSON values; the result follows from them alone.
        figures: what came out, JSON values.
        seconds: that it took.
        versions: of packages and Python, and the machine's processor and accelerator.
    """

    settings: Settings
    figures: dict[str, Any]
    seconds: float
    versions: dict[str, str]

    @property
    def line(self) -> str:
        """It as a line of the file."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False, ensure_ascii=False)


class JobsFailed(Exception):
    """Some jobs did not end; all others are stored."""


def stored(
    table: str, settings: Sequence[Settings], run: Run, *, workers: int = 1, fresh: bool = False
) -> list[Stored]:
    """The results of jobs, in the order of ``settings``; those that are not stored are run first.

    Args:
        table: name of the file.
        settings: of each job: everything that its result follows from.
        run: settings -> figures; a function at a module's top where there are several workers.
        workers: processes with one thread each; 1: this one, with the threads that it has.
        fresh: run those that are stored, too.

    Raises:
        JobsFailed: names the settings of those that failed.
    """
    keys = [_key(one) for one in settings]
    done = {} if fresh else _read(table)
    missing = [json.loads(key) for key in dict.fromkeys(keys) if key not in done]
    failed = []
    with progress(len(missing)) as report, closing(_ran(run, missing, workers)) as ran:
        for one, outcome in ran:
            if isinstance(outcome, str):
                print(outcome, file=sys.stderr, flush=True)
                failed.append(_key(one))
                report(f"FAILED {_words(one)}")
                continue
            done[_key(one)] = _add(table, outcome)
            report(_words(one))
    if failed:
        listed = "\n".join(failed)
        raise JobsFailed(f"{table}: {len(failed)} of {len(missing)} jobs failed:\n{listed}")
    return [done[key] for key in keys]


def kept(table: str) -> list[Stored]:
    """Everything that is stored, in order of the settings; nothing is run."""
    return list(_read(table).values())


def _ran(run: Run, settings: list[Settings], workers: int) -> Iterator[tuple[Settings, Any]]:
    """Each job, as it ends, with its result, or with the words of its failure."""
    if workers == 1 or len(settings) < 2:
        for one in settings:
            yield one, _attempt(run, one)
        return
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_one_thread
    ) as pool:
        waiting = {pool.submit(_attempt, run, one): one for one in settings}
        try:
            for future in as_completed(waiting):
                error = future.exception()  # a worker that was killed takes the others with it
                yield waiting[future], repr(error) if error else future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _attempt(run: Run, settings: Settings) -> Stored | str:
    begun = time.perf_counter()
    try:
        figures = run(settings)
        job = Stored(settings, figures, round(time.perf_counter() - begun, 1), _versions())
        return _parse(job.line)  # as it will be read, or not JSON at all
    except Exception:
        return f"{_words(settings)}\n{traceback.format_exc()}"


def _versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in _PACKAGES}
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {**found, **gpu, "python": platform.python_version(), "processor": _processor()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()}, {os.cpu_count()} cores"


def _key(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _words(settings: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in settings.values() if not isinstance(value, dict | list))


def _file(table: str) -> Path:
    return RESULTS / f"{table}.jsonl"


def _read(table: str) -> dict[str, Stored]:
    if not _file(table).is_file():
        return {}
    jobs = map(_parse, _file(table).read_text(encoding="utf-8").splitlines())
    return {_key(job.settings): job for job in jobs}


def _parse(line: str) -> Stored:
    return Stored(**json.loads(line))


def _add(table: str, job: Stored) -> Stored:
    """Store ``job`` beside what any process has stored by then."""
    with locked(_file(table)):
        jobs = _read(table) | {_key(job.settings): job}
        lines = [jobs[key].line + "\n" for key in sorted(jobs)]
        write_atomic(_file(table), "".join(lines).encode())
    return job
