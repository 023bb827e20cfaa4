"""Everything that is looked at, in one list.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sealtune.doctor.finding import Finding
from sealtune.doctor.gpu import gpus
from sealtune.doctor.host import disk, host, key_files, ports
from sealtune.doctor.machine import Machine
from sealtune.doctor.memory import memory
from sealtune.doctor.packages import packages, python
from sealtune.doctor.processor import processor
from sealtune.doctor.tee import trusted_hardware


def examine(
    machine: Machine,
    programs: Mapping[str, Sequence[str]],
    *,
    state: Path,
    listen: Sequence[int] = (),
    keys: Sequence[Path] = (),
) -> list[Finding]:
    """Look at a machine.

    Args:
        machine: which.
        programs: role -> its programs that are to run there.
        state: folder in which checkpoints and runs are kept.
        listen: ports to be free.
        keys: files that must be their owner's alone.
    """
    return [
        *trusted_hardware(machine),
        *gpus(machine),
        *processor(machine),
        *memory(machine),
        *host(machine),
        disk(state),
        *ports(listen),
        *key_files(keys),
        python(),
        *packages(programs),
    ]
