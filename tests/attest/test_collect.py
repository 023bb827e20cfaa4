"""Collectors against a fake file tree and a fake NVML: no such hardware is at hand."""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from sealtune.attest import Kind
from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.platforms import platform
from sealtune.attest.platforms.base import GpuEvidence
from sealtune.attest.platforms.intel.quote import trim_padding
from sealtune.attest.platforms.intel.sgx import GramineAttester
from sealtune.attest.platforms.nvidia_gpu.gpu import GpuCollector
from sealtune.attest.platforms.sev_snp.certificates import from_table
from sealtune.attest.platforms.tsm import TsmAttester, TsmFiles

DATA = bytes(range(64))


def tdx_like(report_data: bytes) -> bytes:
    """Not a quote; ends in zeros as buffers of quoting services do."""
    return b"quote over " + report_data + bytes(32)


class FakeKernel(TsmFiles):
    """configfs on a plain folder: entries come with files, a write makes a report."""

    def __init__(
        self,
        provider: str = "tdx_guest",
        make_report: Callable[[bytes], bytes] = tdx_like,
        *,
        auxiliary: bytes | None = None,
        intruder: bool = False,
    ) -> None:
        self.provider = provider
        self.make_report = make_report
        self.auxiliary = auxiliary
        self.intruder = intruder
        self.removed: list[Path] = []
        self.writes: list[bytes] = []

    def make(self, entry: Path) -> None:
        entry.mkdir()
        (entry / "provider").write_text(self.provider + "\n")
        (entry / "generation").write_text("0\n")
        (entry / "inblob").touch()
        if self.auxiliary is not None:
            (entry / "auxblob").write_bytes(self.auxiliary)

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        self.writes.append(data)
        (path.parent / "outblob").write_bytes(self.make_report(data))
        steps = 2 if self.intruder else 1
        generation = int((path.parent / "generation").read_text()) + steps
        (path.parent / "generation").write_text(f"{generation}\n")

    def remove(self, entry: Path) -> None:
        self.removed.append(entry)
        for file in entry.iterdir():
            file.unlink()
        entry.rmdir()


def guest(
    root: Path,
    kernel: TsmFiles | None = None,
    *,
    collateral: bytes = b"",
    gpu: GpuEvidence | None = None,
    kind: Kind = Kind.TDX,
) -> TsmAttester:
    """An attester under a fake kernel."""

    def parts(raw: bytes, table: bytes) -> tuple[bytes, bytes]:
        return (trim_padding(raw), b"") if kind is Kind.TDX else (raw[:1184], from_table(table))

    return TsmAttester(kind, root, parts, collateral=collateral, gpu=gpu, files=kernel)


def test_tdx(tmp_path: Path) -> None:
    kernel = FakeKernel()
    attester = guest(tmp_path, kernel, collateral=b"{}")
    evidence = attester.collect(DATA)
    assert evidence.kind is Kind.TDX
    assert evidence.data.startswith(b"quote over " + DATA)
    assert evidence.endorsements == b"{}"
    assert kernel.writes == [DATA], "one write of 64 bytes"
    assert list(tmp_path.iterdir()) == [], "no entry is left behind"
    assert attester.collect_gpu(bytes(32)) == b""


def certificate_table(*names: str) -> bytes:
    bodies = [name.encode() * 3 for name in names]
    offset = 24 * (len(names) + 1)
    entries, data = b"", b""
    for name, body in zip(names, bodies, strict=True):
        entries += struct.pack("<16sII", uuid.UUID(name).bytes_le, offset + len(data), len(body))
        data += body
    return entries + bytes(24) + data


VCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
ASK = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
ARK = "c0b406a4-a803-4952-9743-3fb6014cd0ae"


def test_sev_snp_with_certificates_of_the_host(tmp_path: Path) -> None:
    kernel = FakeKernel(
        "sev_guest", lambda data: data * 20, auxiliary=certificate_table(ARK, ASK, VCEK)
    )
    evidence = guest(tmp_path, kernel, kind=Kind.SEV_SNP).collect(DATA)
    assert evidence.kind is Kind.SEV_SNP
    assert len(evidence.data) == 1184
    assert evidence.endorsements.count(b"BEGIN CERTIFICATE") == 3


@pytest.mark.parametrize(
    "auxiliary",
    [
        None,
        b"",
        certificate_table(VCEK, ASK),
        certificate_table(VCEK, ASK, ARK)[:-1],
        b"\xff" * 24,
        b"x" * 23,
    ],
)
def test_sev_snp_without_usable_certificates(tmp_path: Path, auxiliary: bytes | None) -> None:
    kernel = FakeKernel("sev_guest", lambda data: data * 20, auxiliary=auxiliary)
    assert guest(tmp_path, kernel, kind=Kind.SEV_SNP).collect(DATA).endorsements == b""


def test_somebody_else_wrote(tmp_path: Path) -> None:
    with pytest.raises(AttesterUnavailableError, match="somebody else"):
        guest(tmp_path, FakeKernel(intruder=True)).collect(DATA)
    assert list(tmp_path.iterdir()) == []


def test_kernel_errors(tmp_path: Path) -> None:
    def fail(_: bytes) -> bytes:
        raise OSError(16, "Device or resource busy")

    with pytest.raises(AttesterUnavailableError, match="busy"):
        guest(tmp_path, FakeKernel(make_report=fail)).collect(DATA)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AttesterUnavailableError, match="'arm_cca_guest' is not known"):
        guest(tmp_path, FakeKernel("arm_cca_guest")).collect(DATA)
    assert list(tmp_path.iterdir()) == []


def test_no_such_machine(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(AttesterUnavailableError, match="no TDX or SEV-SNP guest") as caught:
        guest(missing).collect(DATA)
    assert "Linux 6.7" in caught.value.hint
    with pytest.raises(AttesterUnavailableError, match="does not run in an SGX enclave"):
        GramineAttester(missing).collect(DATA)
    with pytest.raises(AttesterUnavailableError, match="not made by an enclave of its own"):
        platform(Kind.NVIDIA_GPU).attester(bytes(48))


def test_a_guest_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(AttesterUnavailableError, match="makes sev-snp evidence, not tdx"):
        guest(tmp_path, FakeKernel("sev_guest")).collect(DATA)


def test_report_data_has_64_bytes(tmp_path: Path) -> None:
    for attester in (guest(tmp_path), GramineAttester(tmp_path)):
        with pytest.raises(AttesterUnavailableError, match="not 64"):
            attester.collect(b"short")


def test_gramine(tmp_path: Path) -> None:
    (tmp_path / "attestation_type").write_text("dcap")
    (tmp_path / "user_report_data").write_bytes(b"")
    (tmp_path / "quote").write_bytes(b"a quote")
    evidence = GramineAttester(tmp_path, collateral=b"c").collect(DATA)
    assert (tmp_path / "user_report_data").read_bytes() == DATA
    assert (evidence.kind, evidence.data, evidence.endorsements) == (Kind.SGX, b"a quote", b"c")


def test_gramine_without_dcap(tmp_path: Path) -> None:
    (tmp_path / "attestation_type").write_text("none")
    with pytest.raises(AttesterUnavailableError, match="'none'") as caught:
        GramineAttester(tmp_path).collect(DATA)
    assert "remote_attestation" in caught.value.hint
    (tmp_path / "attestation_type").unlink()
    with pytest.raises(AttesterUnavailableError, match="No such file"):
        GramineAttester(tmp_path).collect(DATA)


# ---- GPUs ---------------------------------------------------------------------------------


class FakeNvml(SimpleNamespace):
    """The calls that the collector makes."""

    NVML_DEVICE_ARCH_HOPPER = 9

    class NVMLError(Exception):
        """As in pynvml."""

    def __init__(self, count: int = 2, *, fail: bool = False) -> None:
        super().__init__(count=count, fail=fail, open=0)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return int(self.count)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetArchitecture(self, handle: int) -> int:
        return 9

    def nvmlDeviceGetConfComputeGpuAttestationReport(
        self, handle: int, nonce: bytes
    ) -> SimpleNamespace:
        if self.fail:
            raise self.NVMLError("Not Supported")
        report = b"report" + nonce
        return SimpleNamespace(
            attestationReport=list(report) + [0] * 9, attestationReportSize=len(report)
        )

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(
            attestationCertChain=list(b"chain") + [0] * 9, attestationCertChainSize=5
        )


def test_gpus(tmp_path: Path) -> None:
    nvml, nonce = FakeNvml(), bytes(range(32))
    entries = json.loads(GpuCollector(nvml).collect(nonce))
    assert len(entries) == 2
    assert set(entries[0]) == {"arch", "certificate", "evidence", "nonce"}
    assert entries[0]["arch"] == "HOPPER"
    assert entries[0]["nonce"] == nonce.hex()
    assert nvml.open == 0
    attester = guest(tmp_path, gpu=GpuCollector(nvml))
    assert json.loads(attester.collect_gpu(nonce)) == entries


def test_gpus_missing() -> None:
    with pytest.raises(AttesterUnavailableError, match="no NVIDIA GPU"):
        GpuCollector(FakeNvml(0)).collect(bytes(32))
    nvml = FakeNvml(fail=True)
    with pytest.raises(AttesterUnavailableError, match="Not Supported"):
        GpuCollector(nvml).collect(bytes(32))
    assert nvml.open == 0
    with pytest.raises(AttesterUnavailableError, match="32 bytes"):
        GpuCollector(nvml).collect(b"short")


def test_file_operations(tmp_path: Path) -> None:
    """What `TsmFiles` does on configfs, on an ordinary file system; no handle stays open."""
    files, entry = TsmFiles(), tmp_path / "entry"
    files.make(entry)
    blob = entry / "inblob"
    blob.write_bytes(b"")
    handles = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        files.write(blob, b"sixty-four bytes")
    assert len(list(Path("/proc/self/fd").iterdir())) == handles
    assert files.read(blob) == b"sixty-four bytes"
    blob.unlink()
    files.remove(entry)
    assert not entry.exists()
    with pytest.raises(FileNotFoundError):
        files.write(blob, b"x")  # never created
