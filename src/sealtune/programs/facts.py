"""How much code has to be believed for each program: modules, lines, packages of others.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from sealtune import start
from sealtune.errors import SealtuneError
from sealtune.start import ROOT, read_program

# run as a program is: what its main loads, by file
_PROBE = """
import json, runpy, sys
enter = runpy.run_path(sys.argv[1])["enter"]
__import__(enter(sys.argv[2]))
print(json.dumps({name: getattr(m, "__file__", None) for name, m in sys.modules.items()}))
"""


class Size(NamedTuple):
    """How many modules of sealtune, and lines of them."""

    modules: int
    lines: int


class Facts(NamedTuple):
    """What a program consists of: sealtune's own modules, and names of others' packages."""

    at_start: Size  # loaded with the main
    on_demand: Size  # that functions may load
    distributions: tuple[str, ...]  # that the main loads; Python's library apart
    later: tuple[str, ...]  # that it finds besides, where it has a list of packages


def facts(name: str) -> Facts:
    """Count one program, and start it far enough to see which packages it loads.

    Raises:
        SealtuneError: its main cannot be imported.
    """
    program = read_program(name)
    first = distributions(loaded(name))
    later = [one for one in distributions(dict.fromkeys(program.packages)) if one not in first]
    return Facts(_size(program.at_start), _size(program.on_demand), first, tuple(later))


def lines_at_start(name: str) -> int:
    """Lines of sealtune that a program loads when it starts, by its list."""
    return _size(read_program(name).at_start).lines


def loaded(name: str) -> dict[str, str | None]:
    """Each module that importing a program's main loads, with its file.

    Raises:
        SealtuneError: the main cannot be imported.
    """
    command = [sys.executable, "-I", "-B", "-c", _PROBE, start.__file__, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise SealtuneError(
            f"the program {name} does not start: {''.join(last)}",
            hint="after a change of imports, `sealtune tcb --pin` writes the lists anew",
        )
    modules: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return modules


def distributions(modules: Mapping[str, str | None]) -> tuple[str, ...]:
    """The installed packages that these modules are of, sealtune and Python's library apart."""
    own = tuple(name for name, file in modules.items() if file and Path(file).is_relative_to(ROOT))
    tops = {name.partition(".")[0] for name in modules.keys() - own}
    installed = metadata.packages_distributions()
    return tuple(sorted({d for top in tops for d in installed.get(top, ())}, key=str.lower))


def _size(files: tuple[str, ...]) -> Size:
    return Size(len(files), sum((ROOT / file).read_bytes().count(b"\n") for file in files))
