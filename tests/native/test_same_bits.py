"""The C sources alone give the same bits on every kind of processor: this one, and ARM emulated."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from sealtune.native.build import FLAGS
from sealtune.native.sources import sources

PROGRAM = Path(__file__).with_name("same_bits.c")
_NO_MASKS = "cbf29ce484222325"  # hash of nothing
ARM = ("aarch64-linux-gnu-gcc", "-static"), "qemu-aarch64-static"


@cache
def hashes(compiler: tuple[str, ...], emulator: str | None = None) -> dict[str, tuple[str, str]]:
    """Instruction set -> hash of passes, hash of masks."""
    for tool in (compiler[0], emulator):
        if tool is not None and shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    files = [str(path) for path in sources() if path.suffix == ".c"]
    define = '-DSEALTUNE_SOURCES="none"'
    with tempfile.TemporaryDirectory() as temp:
        made = f"{temp}/same_bits"
        command = [*compiler, *FLAGS, define, *files, str(PROGRAM), "-o", made, "-lm"]
        subprocess.run(command, check=True, capture_output=True)
        run = [emulator, made] if emulator else [made]
        lines = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    return {name: (passes, masks) for name, passes, masks in map(str.split, lines.splitlines())}


def test_every_instruction_set_gives_the_same() -> None:
    found = hashes(("cc",))
    assert "plain" in found
    assert len({passes for passes, _ in found.values()}) == 1
    assert len({masks for _, masks in found.values()} - {_NO_MASKS}) <= 1


def test_arm_gives_what_this_processor_gives() -> None:
    arm, here = hashes(*ARM), hashes(("cc",))
    assert {"plain", "neon"} <= arm.keys()
    assert {passes for passes, _ in arm.values()} == {here["plain"][0]}
    masks = {masks for _, masks in (*arm.values(), *here.values())} - {_NO_MASKS}
    assert len(masks) == 1
