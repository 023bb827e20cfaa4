"""TDX quotes and SEV-SNP reports through Linux' configfs-tsm (6.7 or later).

One 64-byte write to ``inblob``, then ``outblob``; ``generation`` shows whether somebody else
interfered. Source: Linux Documentation/ABI/testing/configfs-tsm-report. Tested against recorded
evidence and a fake file tree only: none of this hardware was at hand.

Trust domain: every enclave.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import time
from pathlib import Path

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import Need
from sealtune.attest.platforms.device import read, there, unavailable, write_once

FOLDER = "sys/kernel/config/tsm/report"
KERNEL = (6, 7)
_PROVIDERS = {"tdx_guest": Kind.TDX, "sev_guest": Kind.SEV_SNP}
_PATIENCE = 10.0  # seconds for an entry to be filled; the kernel does it at once


def tsm_report(root: Path, kind: Kind, report_data: bytes) -> tuple[bytes, bytes]:
    """What the kernel and the host give for 64 bytes: quote or report, and auxiliary data.

    Raises:
        AttesterUnavailableError: no such guest, or one of another kind than ``kind``.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        raise AttesterUnavailableError(
            f"no {folder}: this is no TDX or SEV-SNP guest, or its kernel is too old",
            hint="needs Linux 6.7 or later with configfs mounted and the module tdx_guest or "
            "sev_guest loaded",
        )
    entry = folder / f"sealtune-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        entry.mkdir()
    except OSError as error:
        raise unavailable(f"cannot create {entry}", error) from error
    try:
        return _ask(entry, kind, report_data)
    except (OSError, ValueError) as error:
        raise unavailable("the kernel gave no report", error) from error
    finally:
        with contextlib.suppress(OSError):
            entry.rmdir()


def _ask(entry: Path, kind: Kind, report_data: bytes) -> tuple[bytes, bytes]:
    deadline = time.monotonic() + _PATIENCE
    while not (entry / "provider").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    name = read(entry / "provider").decode("ascii", "replace").strip()
    made = _PROVIDERS.get(name)
    if made is None:
        raise AttesterUnavailableError(f"the kernel's report provider {name!r} is not known")
    if made is not kind:
        raise AttesterUnavailableError(f"this guest makes {made} evidence, not {kind}")
    before = int(read(entry / "generation"))
    write_once(entry / "inblob", report_data)
    report = read(entry / "outblob")
    after = int(read(entry / "generation"))
    try:
        auxiliary = read(entry / "auxblob")
    except OSError:
        auxiliary = b""  # the host keeps no certificates; the verifier must have them
    if after != before + 1:
        raise AttesterUnavailableError(f"somebody else wrote to {entry} while a report was made")
    return report, auxiliary


def tsm_needs(root: Path, guest: str, device: str, module: str) -> list[Need]:
    """What a report needs on a Linux guest.

    Args:
        root: of the file system.
        guest: what the machine has to be.
        device: the guest's, below ``root``.
        module: of the kernel.
    """
    try:
        release = (root / "proc/sys/kernel/osrelease").read_text().strip()
    except (OSError, UnicodeDecodeError):
        release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    least = ".".join(map(str, KERNEL))
    return [
        Need(
            f"Linux {least} or later (here: {release})",
            version >= KERNEL,
            "start a newer kernel in the guest",
        ),
        there(root, device, f"this machine is not {guest}, or: modprobe {module}"),
        there(
            root,
            FOLDER,
            "mount -t configfs none /sys/kernel/config; "
            f"the kernel needs CONFIG_TSM_REPORTS; modprobe {module}",
        ),
    ]
