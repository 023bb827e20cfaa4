"""Method 1 on processors of other kinds: in child processes, the library and oneDNN are told to be
on an older one.

oneDNN reads the setting once in a process, so each one needs a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sealtune.native import library

OFF = {"SEALTUNE_NATIVE": "off"}
SETTINGS = {
    "as it is": {},
    **{
        f"library with {name}": {"SEALTUNE_NATIVE": name}
        for name in ("plain", "avx2", "avx512", "neon")  # tests/native tries every set
        if name in library.available()
    },
    "no library": OFF,
    "no library, AVX2": OFF | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "no library, AVX-512 without VNNI": OFF | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "no library, SSE4.1": OFF | {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}


@cache
def report(name: str) -> dict[str, Any]:
    """What ``party`` says in a process with that setting."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.offload.party"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | SETTINGS[name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", SETTINGS)
def test_every_product_is_exact(name: str) -> None:
    found = report(name)
    wrong = [case for case, right in found["exact"].items() if not right]
    assert not wrong, f"with {found['arithmetic']}: {wrong}"


@pytest.mark.parametrize("name", SETTINGS)
def test_int8_is_used_only_where_its_products_do_not_saturate(name: str) -> None:
    found = report(name)
    if found["saturates"]:
        assert found["arithmetic"] != "int8"
    assert found["arithmetic"] == found["engine"] == found["session"]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_library_is_used_unless_it_is_off_or_has_no_instructions(name: str) -> None:
    chosen = SETTINGS[name].get("SEALTUNE_NATIVE", library.available()[-1])
    native = report(name)["arithmetic"] == "native"
    assert native or chosen in ("off", "plain")
    assert not (native and chosen == "off")


@pytest.mark.parametrize("name", SETTINGS)
def test_an_honest_accelerator_passes_and_a_liar_does_not(name: str) -> None:
    found = report(name)
    assert found["honest"] == "accepted"
    assert found["liar"] == "the accelerator's product for q backward is wrong"
    assert found["gradient_error"] < 2e-4
