"""Versions of what a GPU runs, compared.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sealtune.attest.errors import TcbOutOfDateError
from sealtune.attest.evidence import Firmware
from sealtune.job.printable import printable

# A driver has decimal numbers between its dots, a VBIOS two hex digits.
_BASE = {"driver": 10, "vbios": 16}


def too_old(
    firmware: Mapping[str, str], least: Mapping[Firmware, str]
) -> Iterator[TcbOutOfDateError]:
    """What is below the smallest accepted versions."""
    for name, smallest in least.items():
        version = firmware.get(name, "")
        if numbers(name, version) < numbers(name, smallest):
            yield TcbOutOfDateError(
                f"{name} of the GPU has version {printable(version, 40) or 'none'}, the policy "
                f"asks for {smallest}"
            )


def numbers(name: str, version: str) -> tuple[int, ...]:
    """A version as numbers that compare; nothing where it is none."""
    try:
        return tuple(int(part, _BASE[name]) for part in version.split("."))
    except ValueError:
        return ()
