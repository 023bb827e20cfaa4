"""Temporary folders: private, and gone with their process, however it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sealtune.errors import StorageError
from sealtune.job import scratch
from sealtune.job.cache import cache_folder
from sealtune.job.private import private_files

HOLD = """
import sys, time
from sealtune.job.scratch import make_scratch
folder = make_scratch()
(folder / "keys").mkdir()
(folder / "keys" / "tls.key").write_text("secret")
print(folder, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(scratch, "_base", lambda: tmp_path)
    return tmp_path


def hold(base: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process with a folder in ``base``."""
    code = "import pathlib\nimport sealtune.job.scratch as s\n"
    code += f"s._base = lambda: pathlib.Path({str(base)!r})\n"
    process = subprocess.Popen(
        [sys.executable, "-c", code + HOLD], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_goes_at_the_next_start(base: Path) -> None:
    process, folder = hold(base)
    with process:
        assert scratch.sweep() == 0  # it is still at work
        assert (folder / "keys" / "tls.key").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert folder.exists()
        assert scratch.sweep() == 1
    assert not folder.exists()


def test_an_end_in_peace_leaves_nothing(base: Path) -> None:
    process, folder = hold(base)
    with process:
        process.send_signal(signal.SIGINT)
        process.wait()
    assert not folder.exists()


def test_folders_are_private(base: Path) -> None:
    folder = scratch.make_scratch()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert scratch.sweep() == 0
    scratch.remove_scratch(folder)
    assert list(base.iterdir()) == []


def test_what_is_not_ours_is_left_alone(base: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (base / "sealtune-link").symlink_to(target)
    (base / "sealtune-file").write_text("x")
    past = time.time() - 3600
    young = base / "sealtune-young"  # another process may just be making it
    young.mkdir()
    (young / scratch._LOCK).touch()
    for name in ("sealtune-0.4.0", "sealtune-empty"):
        (base / name).mkdir()
        os.utime(base / name, (past, past))
    own = base / "sealtune-0.4.0" / "only-copy.csv"  # the user's, under a name that looks like ours
    own.write_text("x")
    (own.parent / ".lock").touch()  # as package managers leave them
    os.utime(own.parent, (past, past))
    assert scratch.sweep() == 0
    assert own.read_text() == "x"
    assert (base / "sealtune-empty").is_dir()
    assert target.is_dir()
    assert young.is_dir()
    assert (base / "sealtune-file").exists()
    os.utime(young, (past, past))  # it was never held
    assert scratch.sweep() == 1
    assert not young.exists()


def test_a_sweep_that_was_killed_is_finished_by_the_next(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base / "sealtune-half"
    (folder / "keys").mkdir(parents=True)
    (folder / scratch._LOCK).touch()

    def killed(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sealtune.job.scratch.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            scratch.sweep()
    assert (folder / scratch._LOCK).exists()
    assert scratch.sweep() == 1
    assert not folder.exists()


def test_a_lock_that_is_a_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    folder = base / "sealtune-evil"
    folder.mkdir()
    other = tmp_path / "other"
    other.write_text("x")
    (folder / scratch._LOCK).symlink_to(other)
    assert scratch.sweep() == 0
    assert other.read_text() == "x"


def test_private_files(tmp_path: Path) -> None:
    usual = _umask()
    with private_files():
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_text("x")
    (tmp_path / "c").write_text("x")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "c")]
    assert modes[:2] == [0o700, 0o600]
    assert modes[2] == 0o666 & ~usual


def _umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    for name in ("SEALTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StorageError, match="no home folder") as caught:
        cache_folder()
    assert "HOME" in caught.value.hint
