"""Collectors against a fake file tree and a fake NVML: no such hardware is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealtune.attest import Kind
from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.platforms import platform
from sealtune.attest.platforms.device import write_once
from sealtune.attest.platforms.intel.quote import parse_quote
from sealtune.attest.platforms.intel.sgx import Sgx
from sealtune.attest.platforms.nvidia_gpu.gpu import NvidiaGpu
from sealtune.attest.platforms.tsm import FOLDER
from tests.attest.software_tee import ARK, ASK, VCEK, SoftwareTee, certificate_table

DATA = bytes(range(64))
CODE = bytes(48)
DERS = {name: name.encode() * 3 for name in (ARK, ASK, VCEK)}


def test_tdx(tmp_path: Path) -> None:
    with SoftwareTee(tmp_path, Kind.TDX) as guest:
        attester = platform(Kind.TDX, tmp_path).attester(CODE, collateral=b"{}")
        evidence = attester.collect(DATA)
    assert evidence.kind is Kind.TDX
    assert parse_quote(evidence.data).report_data == DATA, "the buffer's padding is cut off"
    assert evidence.endorsements == b"{}"
    assert guest.asked == [DATA], "one write of 64 bytes"
    assert list((tmp_path / FOLDER).iterdir()) == [], "no entry is left behind"
    assert attester.collect_gpu(bytes(32)) == b""


def test_sev_snp_with_certificates_of_the_host(tmp_path: Path) -> None:
    with SoftwareTee(tmp_path, Kind.SEV_SNP, table=certificate_table(DERS)):
        evidence = platform(Kind.SEV_SNP, tmp_path).attester(CODE).collect(DATA)
    assert evidence.kind is Kind.SEV_SNP
    assert len(evidence.data) == 1184
    assert evidence.endorsements.count(b"BEGIN CERTIFICATE") == 3


@pytest.mark.parametrize(
    "table",
    [
        b"",
        certificate_table({name: DERS[name] for name in (VCEK, ASK)}),
        certificate_table(DERS)[:-1],
        b"\xff" * 24,
        b"x" * 23,
    ],
)
def test_sev_snp_without_usable_certificates(tmp_path: Path, table: bytes) -> None:
    with SoftwareTee(tmp_path, Kind.SEV_SNP, table=table):
        assert platform(Kind.SEV_SNP, tmp_path).collect(DATA)[1] == b""


@pytest.mark.parametrize(
    ("guest", "said"),
    [
        ({"steps": 2}, "somebody else wrote"),
        ({"fails": True}, "gave no report: No such file"),
        ({"provider": "arm_cca_guest"}, "'arm_cca_guest' is not known"),
        ({"provider": "sev_guest"}, "makes sev-snp evidence, not tdx"),
    ],
)
def test_no_report(tmp_path: Path, guest: dict[str, Any], said: str) -> None:
    with (
        SoftwareTee(tmp_path, Kind.TDX, **guest),
        pytest.raises(AttesterUnavailableError, match=said),
    ):
        platform(Kind.TDX, tmp_path).collect(DATA)


def test_no_such_machine(tmp_path: Path) -> None:
    with pytest.raises(AttesterUnavailableError, match="no TDX or SEV-SNP guest") as caught:
        platform(Kind.TDX, tmp_path).collect(DATA)
    assert "Linux 6.7" in caught.value.hint
    with pytest.raises(AttesterUnavailableError, match="does not run in an SGX enclave"):
        Sgx(tmp_path).collect(DATA)
    with pytest.raises(AttesterUnavailableError, match="nonce has 32 bytes, not 64") as caught:
        NvidiaGpu(tmp_path).attester(CODE).collect(DATA)
    assert "never alone" in caught.value.hint


@pytest.mark.parametrize("kind", [Kind.SGX, Kind.TDX, Kind.SEV_SNP])
def test_report_data_has_64_bytes(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(AttesterUnavailableError, match="not 64"):
        platform(kind, tmp_path).attester(CODE).collect(b"short")


def gramine(root: Path, attestation: str) -> Path:
    """Gramine's pseudo files."""
    files = root / "dev/attestation"
    files.mkdir(parents=True)
    (files / "attestation_type").write_text(attestation)
    return files


def test_gramine(tmp_path: Path) -> None:
    files = gramine(tmp_path, "dcap")
    (files / "user_report_data").write_bytes(b"")
    (files / "quote").write_bytes(b"a quote")
    evidence = Sgx(tmp_path).attester(CODE, collateral=b"c").collect(DATA)
    assert (files / "user_report_data").read_bytes() == DATA
    assert (evidence.kind, evidence.data, evidence.endorsements) == (Kind.SGX, b"a quote", b"c")


def test_gramine_without_dcap(tmp_path: Path) -> None:
    files = gramine(tmp_path, "none")
    with pytest.raises(AttesterUnavailableError, match="'none'") as caught:
        Sgx(tmp_path).collect(DATA)
    assert "remote_attestation" in caught.value.hint
    (files / "attestation_type").unlink()
    with pytest.raises(AttesterUnavailableError, match="No such file"):
        Sgx(tmp_path).collect(DATA)


# ---- GPUs ---------------------------------------------------------------------------------


class FakeNvml(SimpleNamespace):
    """The calls that the collector makes."""

    NVML_DEVICE_ARCH_HOPPER = 9
    NVML_CC_SYSTEM_ENVIRONMENT_PROD = 2
    NVML_CC_SYSTEM_FEATURE_ENABLED = 1
    NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF = 0

    class NVMLError(Exception):
        """As in pynvml."""

    def __init__(self, count: int = 2, *, fail: bool = False, **state: int) -> None:
        state = {"environment": 2, "ccFeature": 1, "devToolsMode": 0, **state}
        super().__init__(count=count, fail=fail, open=0, state=SimpleNamespace(**state))

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetConfComputeState(self) -> SimpleNamespace:
        return self.state  # type: ignore[no-any-return]

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
    entries = json.loads(NvidiaGpu(nvml=nvml).collect(nonce)[0])
    assert len(entries) == 2
    assert set(entries[0]) == {"arch", "certificate", "evidence", "nonce"}
    assert entries[0]["arch"] == "HOPPER"
    assert entries[0]["nonce"] == nonce.hex()
    assert nvml.open == 0
    attester = Sgx(tmp_path).attester(CODE, gpu=NvidiaGpu(nvml=nvml))
    assert json.loads(attester.collect_gpu(nonce)) == entries


def test_gpus_missing() -> None:
    with pytest.raises(AttesterUnavailableError, match="no NVIDIA GPU"):
        NvidiaGpu(nvml=FakeNvml(0)).collect(bytes(32))
    nvml = FakeNvml(fail=True)
    with pytest.raises(AttesterUnavailableError, match="Not Supported"):
        NvidiaGpu(nvml=nvml).collect(bytes(32))
    assert nvml.open == 0
    with pytest.raises(AttesterUnavailableError, match="32 bytes"):
        NvidiaGpu(nvml=nvml).collect(b"short")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"devToolsMode": 1}, "developer tools are on"),
        ({"ccFeature": 0}, "switched off"),
        ({"environment": 1}, "not that of production"),
        ({"environment": 0}, "not that of production"),
        ({"ccFeature": 0, "devToolsMode": 1}, "switched off; its developer tools are on"),
    ],
)
def test_a_gpu_whose_memory_can_be_read_makes_no_evidence(
    state: dict[str, int], words: str
) -> None:
    """Attack: the host gives the guest a GPU with devtools, whose report is as genuine."""
    nvml = FakeNvml(**state)
    with pytest.raises(AttesterUnavailableError, match=words):
        NvidiaGpu(nvml=nvml).collect(bytes(32))
    assert nvml.open == 0


def test_one_write(tmp_path: Path) -> None:
    """No handle stays open, and nothing is created."""
    blob = tmp_path / "inblob"
    blob.write_bytes(b"")
    handles = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        write_once(blob, b"sixty-four bytes")
    assert len(list(Path("/proc/self/fd").iterdir())) == handles
    assert blob.read_bytes() == b"sixty-four bytes"
    blob.unlink()
    with pytest.raises(FileNotFoundError):
        write_once(blob, b"x")
