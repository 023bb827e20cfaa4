"""Compiles the C sources beside this file into the library that ``library`` loads.

    python -m sealtune.native.build          in place, with $CC or cc

Runs on Python's library alone, so that ``setup.py`` and bare machines can use it. No option names a
processor: each function has its own instructions, and ``cpu.c`` chooses when the program runs.

Trust domain: operator (untrusted); whoever builds decides what the library does.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from sealtune.native.sources import FOLDER, LIBRARY, digest, sources

# no fused multiply-add where the source has none: the reference must give the same bits
FLAGS = (
    *("-std=gnu11", "-O3", "-fopenmp", "-fvisibility=hidden", "-fstack-protector-strong"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"),
)
_SHARED = ("-fPIC", "-shared", "-Wl,-z,relro,-z,now,-z,noexecstack")


def build(target: Path = FOLDER / LIBRARY, *flags: str) -> Path:
    """Compile into ``target``, whole or not at all.

    Args:
        flags: to the compiler, besides its own.

    Raises:
        OSError: there is no compiler, or nothing can be written.
        subprocess.CalledProcessError: it refuses; its ``stderr`` says why.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    files = [path.name for path in sources() if path.suffix == ".c"]  # no path goes into the file
    define = f'-DSEALTUNE_SOURCES="{digest()}"'
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temp:
        made = Path(temp).resolve() / LIBRARY
        command = [*compiler, *FLAGS, *_SHARED, *flags, define, *files, "-o", str(made), "-lm"]
        subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, text=True)
        made.replace(target)
    return target


def main() -> int:
    """Build in place; returns the exit code."""
    try:
        print(build())
    except OSError as error:
        print(f"the library was not built: {error}; a C compiler is needed", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"the library was not built:\n{error.stderr}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
