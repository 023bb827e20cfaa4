"""Runs the launcher with fake enclaves: ``python drive.py RESOLVED RUN_DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.errors import SealtuneError
from sealtune.launch import Interrupted, Programs, run

FAKE = str(Path(__file__).with_name("fake_enclave.py"))


def programs() -> Programs:
    """The fake enclaves."""
    start = (sys.executable, FAKE)
    return Programs((*start, "server"), (*start, "client"), (*start, "accelerator"))


def main() -> int:
    resolved, run_dir = map(Path, sys.argv[1:3])
    try:
        run(resolved, run_dir, programs=programs())
    except SealtuneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        return stop.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
