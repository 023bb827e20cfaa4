"""A digest of sealtune's own source: the "measurement" of a simulated enclave.

It covers the installed files of the rooms that an enclave or a data owner's program can load, so
that a party that runs changed code is seen. It is self-reported: without hardware nothing stops a
liar (`simulated` evidence is marked not confidential everywhere).

Trust domain: every enclave.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import sealtune
from sealtune.attest.evidence import length_prefixed
from sealtune.start import FILES, ROOMS


def enclave_sources(root: Path | None = None) -> list[Path]:
    """The Python files that an enclave or a data owner's program can load (``sealtune.start``).

    Returns:
        sorted by their path below ``root``.
    """
    base = root or Path(sealtune.__file__).parent
    files = [base / name for name in FILES]
    for room in ROOMS["owner"]:
        files += (base / room).rglob("*.py")
    return sorted(
        (path for path in files if path.is_file()), key=lambda p: p.relative_to(base).as_posix()
    )


def measure_sources(root: Path | None = None) -> bytes:
    """SHA-384 over names and contents of the enclave's source files (48 bytes)."""
    base = root or Path(sealtune.__file__).parent
    digest = hashlib.sha384(b"sealtune/sources/v1")
    for path in enclave_sources(base):
        name = path.relative_to(base).as_posix().encode()
        digest.update(length_prefixed(name, path.read_bytes()))
    return digest.digest()


@cache
def own_measurement() -> bytes:
    """`measure_sources` of this installation, read once per process."""
    return measure_sources()
