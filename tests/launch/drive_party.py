"""Runs one party with a fake enclave: ``python drive_party.py LOCAL.toml [PART]``."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from sealtune.errors import SealtuneError
from sealtune.job.local import Local
from sealtune.job.local_file import load_local
from sealtune.launch import Interrupted, write_party
from sealtune.launch.party import Part, run_party

FAKE = str(Path(__file__).with_name("fake_enclave.py"))


def command(local: Local) -> list[str]:
    """A fake enclave, with its file in the party's folder."""
    path = local.folder / "fake-local.json"
    write_party(local, path)
    return [sys.executable, FAKE, local.role, str(path)]


def main() -> int:
    local, *part = sys.argv[1:]
    try:
        run_party(
            load_local(Path(local)),
            out=sys.stdout,
            console=Console(stderr=True),
            part=Part(part[0]) if part else None,
            command=command,
        )
    except SealtuneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        return stop.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
