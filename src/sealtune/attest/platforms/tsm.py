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
from collections.abc import Callable
from pathlib import Path

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Evidence, Kind
from sealtune.attest.platforms.base import GpuEvidence, Need
from sealtune.attest.platforms.device import (
    check_report_data,
    read,
    there,
    unavailable,
    write_once,
)

FOLDER = "sys/kernel/config/tsm/report"
KERNEL = (6, 7)
_PROVIDERS = {"tdx_guest": Kind.TDX, "sev_guest": Kind.SEV_SNP}
_PATIENCE = 10.0  # seconds for an entry to be filled; the kernel does it at once


class TsmFiles:
    """The file operations on configfs; a test brings its own kernel."""

    def make(self, entry: Path) -> None:
        """Create a report entry; the kernel fills it with files."""
        entry.mkdir()
        deadline = time.monotonic() + _PATIENCE
        while not (entry / "provider").exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    def write(self, path: Path, data: bytes) -> None:
        """One write call; the kernel takes a blob only whole."""
        write_once(path, data)

    def read(self, path: Path) -> bytes:
        """A whole file."""
        return read(path)

    def remove(self, entry: Path) -> None:
        """Remove a report entry."""
        entry.rmdir()


class TsmAttester:
    """TDX quotes or SEV-SNP reports through configfs-tsm.

    Args:
        kind: which of the two is expected.
        root: where configfs-tsm keeps its reports.
        parts: takes what the kernel and the host gave; returns the evidence and the certificates
            to send along.
        collateral: Intel's collateral, or AMD's certificates where the host sends none.
        gpu: collector of GPU evidence, or nothing.
        files: file operations.
    """

    def __init__(
        self,
        kind: Kind,
        root: Path,
        parts: Callable[[bytes, bytes], tuple[bytes, bytes]],
        *,
        collateral: bytes = b"",
        gpu: GpuEvidence | None = None,
        files: TsmFiles | None = None,
    ) -> None:
        self.kind = kind
        self._root = root
        self._parts = parts
        self._collateral = collateral
        self._gpu = gpu
        self._files = files or TsmFiles()

    def collect(self, report_data: bytes) -> Evidence:
        """See `sealtune.attest.evidence.Attester`."""
        check_report_data(report_data)
        entry = self._open()
        try:
            self._check_provider(entry)
            before = int(self._files.read(entry / "generation"))
            self._files.write(entry / "inblob", report_data)
            raw = self._files.read(entry / "outblob")
            after = int(self._files.read(entry / "generation"))
            if after != before + 1:
                raise AttesterUnavailableError(
                    f"somebody else wrote to {entry} while a report was made"
                )
            data, sent = self._parts(raw, self._auxiliary(entry))
        except (OSError, ValueError) as error:
            raise unavailable("the kernel gave no report", error) from error
        finally:
            with contextlib.suppress(OSError):
                self._files.remove(entry)
        return Evidence(self.kind, data, self._collateral or sent)

    def collect_gpu(self, nonce: bytes) -> bytes:
        """See `sealtune.attest.evidence.Attester`."""
        return self._gpu.collect(nonce) if self._gpu else b""

    def _open(self) -> Path:
        if not self._root.is_dir():
            raise AttesterUnavailableError(
                f"no {self._root}: this is no TDX or SEV-SNP guest, or its kernel is too old",
                hint="needs Linux 6.7 or later with configfs mounted and the module tdx_guest or "
                "sev_guest loaded",
            )
        entry = self._root / f"sealtune-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._files.make(entry)
        except OSError as error:
            raise unavailable(f"cannot create {entry}", error) from error
        return entry

    def _check_provider(self, entry: Path) -> None:
        name = self._files.read(entry / "provider").decode("ascii", "replace").strip()
        made = _PROVIDERS.get(name)
        if made is None:
            raise AttesterUnavailableError(f"the kernel's report provider {name!r} is not known")
        if made is not self.kind:
            raise AttesterUnavailableError(f"this guest makes {made} evidence, not {self.kind}")

    def _auxiliary(self, entry: Path) -> bytes:
        try:
            return self._files.read(entry / "auxblob")
        except OSError:
            return b""  # the host keeps no certificates; the verifier must have them


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
