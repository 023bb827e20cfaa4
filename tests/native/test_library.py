"""Which library is used, which is refused, and with which instructions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sealtune.errors import OffloadError
from sealtune.native import library
from sealtune.native.build import build
from sealtune.native.sources import FOLDER, LIBRARY

ASK = "from sealtune.native import library; print(library.instructions(), library.why_off())"
compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def ask(root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a process says that finds sealtune in ``root``."""
    return subprocess.run(
        [sys.executable, "-c", ASK],
        env={name: v for name, v in os.environ.items() if name != library.VARIABLE}
        | {"PYTHONPATH": str(root)}
        | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package as far as the library needs it, without one."""
    package = tmp_path / "sealtune"
    shutil.copytree(FOLDER, package / "native", ignore=shutil.ignore_patterns("*.so"))
    for name in ("__init__.py", "errors.py"):
        shutil.copy(FOLDER.parent / name, package)
    return tmp_path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of these sources."""
    return build(tmp_path_factory.mktemp("built") / LIBRARY)


@compiler
def test_a_checkout_with_a_compiler_has_its_library() -> None:
    assert library.available()[1:], library.why_off()


def test_without_a_library_references_work_and_it_is_said_why(copied: Path) -> None:
    said = ask(copied).stdout
    assert said.startswith("off libsealtune.so was not built: `python -m sealtune.native.build`")


@compiler
def test_a_library_of_other_sources_is_not_used(copied: Path, built: Path) -> None:
    native = copied / "sealtune" / "native"
    shutil.copy(built, native)
    assert ask(copied).stdout.split()[0] == library.available()[-1]
    with (native / "passes.c").open("a") as file:
        file.write("// changed\n")
    assert ask(copied).stdout.startswith("off libsealtune.so was built from other sources")


def test_what_is_no_library_is_not_used(copied: Path) -> None:
    (copied / "sealtune" / "native" / LIBRARY).write_bytes(b"nothing")
    assert ask(copied).stdout.startswith("off libsealtune.so cannot be loaded")


@compiler
def test_two_builds_are_equal(built: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "folder" / LIBRARY).read_bytes() == built.read_bytes()


@compiler
def test_a_build_that_fails_leaves_what_was_there(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(shutil.copy(built, tmp_path))
    monkeypatch.setenv("CC", "cc -include nowhere.h")
    with pytest.raises(subprocess.CalledProcessError):
        build(made)
    assert made.read_bytes() == built.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [LIBRARY]


def test_the_variable_chooses_a_set_and_another_name_is_refused() -> None:
    root = FOLDER.parents[1]
    for name in library.available():
        assert ask(root, SEALTUNE_NATIVE=name).stdout.split()[0] == name
    refused = ask(root, SEALTUNE_NATIVE="fastest")
    assert refused.returncode
    assert "SEALTUNE_NATIVE=fastest is not to be had here" in refused.stderr


def test_a_set_is_used_for_a_while() -> None:
    before = library.instructions()
    with library.using(library.OFF):
        assert library.function("sealtune_mask") is None
        assert library.why_off() == "SEALTUNE_NATIVE=off"
    assert library.instructions() == before
    with pytest.raises(OffloadError, match="not to be had"), library.using("none such"):
        pass
    assert library.instructions() == before
