"""Runs the tests on mutants, for `mutants.py`: in a copy of the tree, each in a forked child.

As a program it is the process that forks. It runs under a Python of its own, whose `sealtune` is
the copy's, also for children that are started isolated. What the tests import from outside the
project is loaded once, so that a child begins with nothing to load but the project itself.

    line in:   {"file": PATH, "text": MUTATED, "tests": [PATH], "wall": SECONDS, "cpu": SECONDS}
    line out:  {"code": PYTEST'S, "test": FIRST FAILED, "seconds": {PATH: S}, "modules": [NAME],
                "wall": SECONDS, "cpu": SECONDS}
"""

from __future__ import annotations

import compileall
import contextlib
import importlib
import json
import math
import os
import py_compile
import resource
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("src", "tests", "benchmarks", "docs", "examples")
TIMED_OUT = -1
_MEMORY = 12 << 30  # bytes that a mutant may take
_OURS = frozenset({"sealtune", "tests", "conftest", "__main__", "__mp_main__"})


class Forks:
    """The copy of a tree, and the process that forks a child for each mutant in it."""

    def __init__(self, root: Path, process: subprocess.Popen[str]) -> None:
        self.root = root
        self._process = process

    def run(
        self, tests: Sequence[str], limits: tuple[float, float], file: str = "", text: str = ""
    ) -> dict[str, Any]:
        """Run test files with one file changed; the copy is put right again.

        Args:
            limits: seconds on the clock and of the processor; what reaches either is ended.
        """
        wall, cpu = limits
        order = {"file": file, "text": text, "tests": list(tests), "wall": wall, "cpu": cpu}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("mutants: the process that runs the tests ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def forks(tree: Path) -> Iterator[Forks]:
    """Copy ``tree``, without its ignored files, and start the process there.

    Args:
        tree: a repository; nothing in it is written.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder) / "tree"
        root.mkdir()
        for path in tree.iterdir():
            if path.is_file() and path.name != ".git":
                shutil.copy2(path, root)
        for name in NEEDED:
            if (tree / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(tree / name, root / name, ignore=ignore)
        # By hash: a mutant of the same size and second is not taken for what it was made of.
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(root, quiet=1, invalidation_mode=mode)
        python = _environment(Path(folder), root)
        (Path(folder) / "tmp").mkdir()
        command = [str(python), "-B", str(Path(__file__)), str(root)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(Path(folder) / "tmp")}
        environment.pop("PYTHONPATH", None)
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                yield Forks(root, process)
            finally:
                process.terminate()


def _environment(folder: Path, root: Path) -> Path:
    """A Python that has all packages of this one, but the copy's `sealtune`."""
    home = folder / "venv"
    venv.EnvBuilder(symlinks=True).create(home)
    packages = sysconfig.get_path("purelib", vars={"base": str(home)})
    # Lines of a .pth file: folders named here are searched, but their own .pth files are not read.
    folders = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    Path(packages, "mutants.pth").write_text("\n".join([str(root / "src"), *folders]) + "\n")
    return home / "bin" / "python"


# ---- the process that forks -------------------------------------------------------------------


class _Watch:
    """A pytest plugin: what failed first, and how long each file took."""

    def __init__(self) -> None:
        self.failed = ""
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid.split("::")[0]] += report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def _child(tests: list[str], cpu: float, result: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu), math.ceil(cpu)))
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(result.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, target in enumerate((null, log, log)):
        os.dup2(target, number)
    with contextlib.suppress(ImportError):
        from hypothesis import Phase, settings

        # The same examples for every mutant; the first that fails will do.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
        settings.load_profile("mutants")
    watch = _Watch()
    words = ["-x", "-m", "not slow", "-p", "no:cacheprovider", "--assert=plain", "--timeout=0"]
    code = int(pytest.main([*words, f"--basetemp={result.with_suffix('.tmp')}", *tests], [watch]))
    modules = [name for name in sys.modules if name.split(".")[0] not in _OURS]
    answer = {"code": code, "test": watch.failed, "seconds": watch.seconds, "modules": modules}
    result.write_text(json.dumps(answer))


def _fork(tests: list[str], wall: float, cpu: float, result: Path) -> dict[str, Any]:
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _child(tests, cpu, result)
        os._exit(0)
    try:
        handle = os.pidfd_open(child)
        ended, _, _ = select.select([handle], [], [], wall)
        os.close(handle)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what its tests have left
        _, _, used = os.wait4(child, 0)
    answer: dict[str, Any] = {"code": TIMED_OUT, "test": "", "seconds": {}, "modules": []}
    if ended:
        crashed = answer | {"code": int(pytest.ExitCode.INTERNAL_ERROR)}
        answer = json.loads(result.read_text()) if result.exists() else crashed
    return answer | {"cpu": used.ru_utime + used.ru_stime}


def _stop(_signal: int, _frame: object) -> None:
    raise SystemExit(1)


def serve(root: Path) -> None:
    """Answer orders until the input ends."""
    signal.signal(signal.SIGTERM, _stop)
    os.chdir(root)
    sys.path[0] = str(root)
    result = root.parent / "result.json"
    for line in sys.stdin:
        order = json.loads(line)
        changed = root / order["file"] if order["file"] else None
        before = changed.read_text() if changed else ""
        started = time.monotonic()
        try:
            if changed:
                changed.write_text(order["text"])
            answer = _fork(order["tests"], order["wall"], order["cpu"], result)
        finally:
            if changed:
                changed.write_text(before)
        answer["wall"] = time.monotonic() - started
        print(json.dumps(answer), flush=True)
        if changed is None:
            for name in answer.pop("modules"):
                # Some exist only under the conditions of a test.
                with contextlib.suppress(Exception):
                    importlib.import_module(name)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
