"""The handshake's model is checked, and finds the known attacks where a protection is left out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "handshake.pml"

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("cc") is None,
    reason="needs spin and a C compiler (Debian packages spin, gcc)",
)


def check(folder: Path, *variant: str) -> str:
    """Explore every state; what the checker says."""
    subprocess.run(["spin", "-a", *variant, str(MODEL)], cwd=folder, check=True)
    compiler = ["cc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"]
    subprocess.run(compiler, cwd=folder, check=True)
    run = ["./pan", "-m100000", "-E"]
    return subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_agreement_and_secrecy_hold(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert "errors: 0" in found
    assert "max search depth too small" not in found
    for party in ("Alice", "Server"):  # both come to their ends: nothing holds because nothing runs
        assert re.search(rf"unreached in proctype {party}\n\s+\(0 of \d+ states\)", found), found


@pytest.mark.parametrize(
    ("variant", "violated"),
    [
        # evidence that the server made for Eve, shown to Alice, who takes it at its word
        (("-DNO_NAMES", "-DNO_CONFIRM"), "alice_server_key==3"),
        # a half that Eve chose, in a channel that the server does not have
        (("-DNO_CONFIRM",), "alice_half==2"),
        (("-DNO_NAMES", "-DNO_TRANSCRIPT"), "alice_server_key==3"),
    ],
)
def test_attacks_are_found(tmp_path: Path, variant: tuple[str, ...], violated: str) -> None:
    found = check(tmp_path, *variant)
    assert "errors: 1" in found
    assert violated in found
