"""A digest of a program's own source: the "measurement" of a simulated enclave.

It covers exactly the files that the program may load, so that a party that runs changed code is
seen. It is self-reported: without hardware nothing stops a liar (`simulated` evidence is marked not
confidential everywhere).

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from sealtune.frames import length_prefixed
from sealtune.start import ROOT, list_file, read_program


def program_digest(name: str, root: Path = ROOT) -> bytes:
    """SHA-384 over the names and contents of a program's files and of its list (48 bytes).

    Args:
        name: such as ``aggregator``.
        root: the package's folder.
    """
    program = read_program(name, root)
    digest = hashlib.sha384(b"sealtune/program/v1")
    for path in (list_file(name, root), *(root / f for f in program.at_start + program.on_demand)):
        label = path.relative_to(root).as_posix().encode()
        digest.update(length_prefixed(label, path.read_bytes()))
    return digest.digest()
