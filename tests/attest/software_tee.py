"""A TEE in software, for tests: genuine formats under a made-up vendor's root.

A folder takes the place of a guest's file system. The product's own collector makes an entry in
its configfs-tsm and writes report data; a thread answers with an SEV-SNP report or a TDX quote.
A policy accepts them only where it names the made-up root (``insecure_test_root``).

    with SoftwareTee(tmp_path, Kind.SEV_SNP) as tee:
        platform(tee.kind, tee.root).attester(...)
        policy = tee.policy()
"""

from __future__ import annotations

import os
import struct
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.serialization import Encoding

from sealtune.attest import AppraisalPolicy, Kind, KindPolicy
from sealtune.attest.platforms.certs import load_pem_chain
from sealtune.attest.platforms.intel.dcap import td_measurement
from sealtune.attest.platforms.intel.quote import parse_quote, trim_padding
from sealtune.attest.platforms.sev_snp.policy import SnpPolicy
from sealtune.attest.platforms.tsm import FOLDER
from tests.attest import amd, intel
from tests.attest.authority import Authority
from tests.attest.public import SERVER

VCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
ASK = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
ARK = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
_TCB = {"bootloader": 3, "tee": 2, "snp": 8, "microcode": 0x73}  # of `amd.TCB`


class SoftwareTee:
    """A guest whose firmware is a thread of this process.

    Args:
        root: an empty folder, to be used in the place of "/".
        kind: SEV-SNP or TDX.
        code: what the guest was launched with, 48 bytes: SEV-SNP's measurement, TDX's RTMR 2.
        vendor: whose root its certificates lead to (SEV-SNP).
        provider: what the kernel calls its reports; default: that of the kind.
        table: certificates that the host keeps; default: all.
        steps: how far a request counts the generation up; more than one where others interfere.
        fails: whether the firmware gives no report.
    """

    def __init__(
        self,
        root: Path,
        kind: Kind = Kind.SEV_SNP,
        *,
        code: bytes = b"\xaa" * 48,
        vendor: Authority = amd.VENDOR,
        provider: str = "",
        table: bytes | None = None,
        steps: int = 1,
        fails: bool = False,
    ) -> None:
        self.root = root
        self.kind = kind
        self._code = code
        self._provider = provider or ("sev_guest" if kind is Kind.SEV_SNP else "tdx_guest")
        self._steps = steps
        self._fails = fails
        self.asked: list[bytes] = []
        self._vendor = vendor
        self._chip, self._chain = amd.certificate(vendor=vendor)
        self._table = self._certificates() if table is None else table
        self._reports = root / FOLDER
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Fill the folder, and start to answer."""
        self._reports.mkdir(parents=True)
        (self.root / "dev").mkdir()
        (self.root / "proc/sys/kernel").mkdir(parents=True)
        (self.root / "proc/sys/kernel/osrelease").write_text("6.12.0-software\n")
        if self.kind is Kind.SEV_SNP:
            key = struct.pack("<I28x32s", 0, os.urandom(32))
            (self.root / "dev/sev-guest").write_bytes(key)
        else:
            (self.root / "dev/tdx_guest").touch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Answer no more."""
        self._stop.set()
        self._thread.join()

    @property
    def measurement(self) -> str:
        """What a policy has to name, hex."""
        if self.kind is Kind.SEV_SNP:
            return self._code.hex()
        return td_measurement(parse_quote(trim_padding(self._report(bytes(64))))).hex()

    @property
    def test_root(self) -> str:
        """SHA-256 of the made-up root, hex."""
        (root,) = self._vendor.roots if self.kind is Kind.SEV_SNP else intel.ROOTS
        return root.hex()

    @property
    def collateral(self) -> bytes:
        """Intel's tables, valid now; nothing for SEV-SNP, whose host sends certificates."""
        if self.kind is Kind.SEV_SNP:
            return b""
        today = datetime.now(UTC).replace(microsecond=0)
        issued, expires = (
            (today + timedelta(days=days)).isoformat().replace("+00:00", "Z") for days in (-1, 20)
        )
        return intel.Tables(self.kind, issued=issued, expires=expires).encode()

    def policy(self, **change: Any) -> AppraisalPolicy:
        """Accepts this guest under its test root; ``change`` replaces settings of its kind."""
        settings: dict[str, Any] = {
            "measurements": (self.measurement,),
            "insecure_test_root": self.test_root,
            "allow": SERVER if self.kind is Kind.TDX else ("smt",),
        }
        if self.kind is Kind.SEV_SNP:
            settings["snp"] = SnpPolicy(min_tcb={"Milan": _TCB})
        return AppraisalPolicy(kinds={self.kind: KindPolicy(**{**settings, **change})})

    def _watch(self) -> None:
        known: set[str] = set()
        while not self._stop.wait(0.003):
            for name in set(os.listdir(self._reports)) - known:
                known.add(name)
                answer = threading.Thread(
                    target=self._answer, args=(self._reports / name,), daemon=True
                )
                answer.start()

    def _answer(self, entry: Path) -> None:
        """Fill one entry as the kernel does, and answer its one request.

        Pipes order the two sides: a read waits for the report as it would for the firmware. After
        the last one the entry is empty, so that removing it works as on configfs.
        """
        for pipe in ("auxblob",) if self._fails else ("outblob", "auxblob"):
            os.mkfifo(entry / pipe)
        (entry / "generation").write_text("0\n")
        (entry / "inblob").touch()
        provider = self.root / f"{entry.name}.provider"
        provider.write_text(f"{self._provider}\n")
        provider.rename(entry / "provider")
        while len(asked := (entry / "inblob").read_bytes()) < 64:
            if self._stop.wait(0.003):
                return
        self.asked.append(asked)
        (entry / "generation").write_text(f"{self._steps}\n")
        with (entry / "outblob").open("wb") as pipe_out:
            pipe_out.write(self._report(asked))
        with (entry / "auxblob").open("wb") as pipe_out:
            for name in os.listdir(entry):
                (entry / name).unlink()
            pipe_out.write(self._table if self.kind is Kind.SEV_SNP else b"")

    def _report(self, report_data: bytes) -> bytes:
        if self.kind is Kind.TDX:
            body = intel.td_body(change={520: report_data, 136 + 48 * 6: self._code})
            return intel.quote(body) + bytes(64)  # as from a quoting service's buffer
        return amd.report(
            self._chip, version=3, cpuid=b"\x19\x01\x01", report_data=report_data,
            measurement=self._code,
        )  # fmt: skip

    def _certificates(self) -> bytes:
        ders = [one.public_bytes(Encoding.DER) for one in load_pem_chain(self._chain)]
        return certificate_table(dict(zip((VCEK, ASK, ARK), ders, strict=True)))


def certificate_table(bodies: Mapping[str, bytes]) -> bytes:
    """A host's table of certificates: name -> DER."""
    offset = 24 * (len(bodies) + 1)
    entries, data = b"", b""
    for name, body in bodies.items():
        entries += struct.pack("<16sII", uuid.UUID(name).bytes_le, offset + len(data), len(body))
        data += body
    return entries + bytes(24) + data
