"""Runs the launcher with fake enclaves: ``python drive.py FOLDER RUN_DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from sealtune.errors import SealtuneError
from sealtune.job.dsse import Envelope
from sealtune.job.local import Local
from sealtune.job.manifest import open_manifest
from sealtune.job.spec import placed
from sealtune.launch import MANIFEST, Interrupted, line_up, run, write_party

FAKE = str(Path(__file__).with_name("fake_enclave.py"))


def parties(folder: Path, run_dir: Path) -> list[Local]:
    """The parties of the job in ``folder``, which runs in ``run_dir``."""
    manifest = open_manifest(Envelope.read(folder / MANIFEST))
    job = placed(manifest.settings, train=Path("t.csv"), test=Path("t.csv"))
    return [
        party.model_copy(update={"manifest": folder / MANIFEST})
        for party in line_up(job, run_dir, keys={})
    ]


def command(local: Local) -> list[str]:
    """A fake enclave, with its file in the run's temporary folder."""
    path = Path(local.listen.removeprefix("unix:")).with_name(f"{local.name}.json")
    write_party(local, path)
    return [sys.executable, FAKE, local.role, str(path)]


def main() -> int:
    folder, run_dir = map(Path, sys.argv[1:3])
    try:
        run(parties(folder, run_dir), command=command)
    except SealtuneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as stop:
        return stop.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
