"""The C sources beside this file, and the digest by which a library tells what it was built from.

Trust domain: none of its own; both sides of the boundary use it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = "libsealtune.so"


def sources() -> list[Path]:
    """The C files and headers, by name."""
    return sorted(path for path in FOLDER.iterdir() if path.suffix in (".c", ".h"))


def digest() -> str:
    """SHA-256 over names and contents of the sources, hex."""
    hashed = hashlib.sha256(b"sealtune native v1")
    for path in sources():
        data = path.read_bytes()
        hashed.update(f"{path.name} {len(data)} ".encode() + data)
    return hashed.hexdigest()
