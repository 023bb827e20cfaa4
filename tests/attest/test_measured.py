"""What an enclave loads is what its measurement covers."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from pathlib import Path
import sealtune.enclave.{program}
from sealtune.attest.measure import enclave_sources
measured = {{path.resolve() for path in enclave_sources()}}
loaded = {{
    Path(module.__file__).resolve()
    for name, module in sys.modules.items()
    if name.split(".")[0] == "sealtune" and getattr(module, "__file__", None)
}}
print(sorted(path.name for path in loaded - measured))
"""


@pytest.mark.parametrize("program", ["client", "aggregator"])
def test_every_loaded_module_is_measured(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(program=program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
