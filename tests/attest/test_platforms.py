"""Kinds of TEE: each loads when it is asked for, says what it lacks, and seals or refuses to."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from sealtune.attest import Kind
from sealtune.attest.errors import AttesterUnavailableError, MalformedEvidenceError
from sealtune.attest.platforms import platform
from sealtune.attest.platforms.sev_snp.guest import derived_key

NONE = (Kind.PARTICIPANT, Kind.UNATTESTED)
MACHINES = [kind for kind in Kind if kind not in NONE]
SECRET = bytes(range(32))


@pytest.mark.parametrize("kind", MACHINES)
def test_a_platform_is_of_its_kind(kind: Kind) -> None:
    assert platform(kind).kind is kind


@pytest.mark.parametrize("kind", NONE)
def test_what_shows_no_machine(kind: Kind) -> None:
    with pytest.raises(MalformedEvidenceError, match="no evidence of a machine"):
        platform(kind)


def loaded(code: str) -> set[str]:
    """Modules of the room below `sealtune.attest` in a fresh process after ``code``."""
    show = "import sys; print(*(m for m in sys.modules if m.startswith('sealtune.attest.')))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True
    )
    return {name.removeprefix("sealtune.attest.") for name in done.stdout.split()}


def test_simulated_programs_load_no_vendor() -> None:
    """A program whose manifest accepts simulated evidence alone: attester, verifier and policy."""
    code = """
from sealtune.attest import Kind
from sealtune.attest.appraise import Appraiser
from sealtune.attest.platforms import platform
from sealtune.attest.platforms.simulated import simulated_policy
from sealtune.attest.policy import parse_policy
import sealtune.channel
from datetime import UTC, datetime
policy = parse_policy(simulated_policy(bytes(48)).model_dump(mode="json"))
evidence = platform(Kind.SIMULATED).attester(bytes(48)).collect(bytes(64))
Appraiser().verify(evidence, report_data=bytes(64), policy=policy, at=datetime.now(UTC))
"""
    assert loaded(code) == {
        "appraise",
        "errors",
        "evidence",
        "measure",
        "platforms",
        "platforms.base",
        "platforms.simulated",
        "policy",
    }


def test_other_kinds_load_their_own_vendor_only() -> None:
    def of(kind: Kind) -> set[str]:
        names = loaded(
            "from sealtune.attest import Kind\nfrom sealtune.attest.platforms import platform\n"
            f"platform(Kind({str(kind)!r}))"
        )
        return {name.split(".")[1] for name in names if name.startswith("platforms.")}

    shared = {"base", "certs", "device"}
    assert of(Kind.SEV_SNP) == {*shared, "sev_snp", "tsm"}
    assert of(Kind.TDX) == {*shared, "intel", "tsm"}
    assert of(Kind.SGX) == {*shared, "intel"}
    assert of(Kind.NVIDIA_GPU) == {*shared, "nvidia_gpu"}


# ---- what is missing ----------------------------------------------------------------------------


def found(kind: Kind, root: Path, release: str) -> list[bool | None]:
    (root / "proc/sys/kernel").mkdir(parents=True, exist_ok=True)
    (root / "proc/sys/kernel/osrelease").write_text(release)
    return [need.there for need in platform(kind, root).needs()]


def test_needs_are_found_where_they_are(tmp_path: Path) -> None:
    for name in ("dev/tdx_guest", "sys/kernel/config/tsm/report"):
        (tmp_path / name).mkdir(parents=True)
    assert found(Kind.TDX, tmp_path, "6.12.3-x") == [True, True, True]
    assert found(Kind.TDX, tmp_path, "6.5") == [False, True, True]
    assert found(Kind.SEV_SNP, tmp_path, "odd") == [False, False, True]
    assert platform(Kind.SIMULATED, tmp_path).needs() == []


def test_missing_names_things_and_remedies(tmp_path: Path) -> None:
    found(Kind.SEV_SNP, tmp_path, "6.1.0")
    kernel, device, folder = platform(Kind.SEV_SNP, tmp_path).missing()
    assert kernel == "Linux 6.7 or later (here: 6.1.0): start a newer kernel in the guest"
    assert device == (
        "/dev/sev-guest: this machine is not an SEV-SNP guest, or: modprobe sev_guest"
    )
    assert folder.startswith("/sys/kernel/config/tsm/report: mount -t configfs none")
    sgx = platform(Kind.SGX, tmp_path).missing()
    assert any("gramine-sgx" in line for line in sgx)
    assert platform(Kind.SIMULATED, tmp_path).missing() == []


# ---- sealing keys -------------------------------------------------------------------------------


def test_tdx_seals_for_one_process(tmp_path: Path) -> None:
    tdx = platform(Kind.TDX, tmp_path)
    one, other = tdx.sealing_key(), tdx.sealing_key()
    assert (len(one), len(other)) == (32, 32)
    assert one != other
    lasting = {kind for kind in MACHINES if platform(kind).keeps_state}
    assert Kind.TDX not in lasting
    assert {Kind.SGX, Kind.SEV_SNP, Kind.SIMULATED} <= lasting
    with pytest.raises(AttesterUnavailableError, match="no key to seal"):
        platform(Kind.NVIDIA_GPU, tmp_path).sealing_key()


def test_sgx_seals_with_gramines_key(tmp_path: Path) -> None:
    sgx, keys = platform(Kind.SGX, tmp_path), tmp_path / "dev/attestation/keys"
    with pytest.raises(AttesterUnavailableError, match="no sealing key"):
        sgx.sealing_key()
    keys.mkdir(parents=True)
    (keys / "_sgx_mrenclave").write_bytes(SECRET[:16])
    key = sgx.sealing_key()
    assert len(key) == 32
    assert key == sgx.sealing_key()
    (keys / "_sgx_mrenclave").write_bytes(SECRET[1:17])
    assert sgx.sealing_key() != key
    (keys / "_sgx_mrenclave").write_bytes(bytes(15))
    with pytest.raises(AttesterUnavailableError, match="15 bytes"):
        sgx.sealing_key()


class FakeFirmware:
    """/dev/sev-guest as the kernel's header has it: a request in, 64 bytes out."""

    def __init__(self, key: bytes = SECRET, *, status: int = 0, error: int = 0) -> None:
        self.answer = struct.pack("<I28x32s", status, key)
        self.error = error
        self.request = b""
        self.number = 0

    def __call__(self, device: int, number: int, arguments: bytearray) -> None:
        self.number = number
        version, request, response, _ = struct.unpack("<B7xQQQ", arguments)
        assert version == 1
        self.request = ctypes.string_at(request, 32)
        ctypes.memmove(response, self.answer, 64)
        arguments[24:32] = self.error.to_bytes(8, "little")


def test_sev_snp_asks_for_a_key_of_this_code(tmp_path: Path) -> None:
    firmware = FakeFirmware()
    assert derived_key(0, firmware) == SECRET
    assert firmware.number == 0xC0205301, "SNP_GET_DERIVED_KEY of linux/sev-guest.h"
    root, _, fields, vmpl, svn, tcb = struct.unpack("<IIQIIQ", firmware.request)
    assert fields == 0b1001, "guest policy and measurement are mixed in"
    assert (root, vmpl, svn, tcb) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "firmware",
    [FakeFirmware(status=0x16), FakeFirmware(error=1 << 32), FakeFirmware(bytes(32))],
    ids=["status", "error", "zeros"],
)
def test_sev_snp_takes_no_refusal_for_a_key(firmware: FakeFirmware) -> None:
    with pytest.raises(AttesterUnavailableError, match="gave no sealing key"):
        derived_key(0, firmware)


def test_sev_snp_without_its_device(tmp_path: Path) -> None:
    with pytest.raises(AttesterUnavailableError, match="No such file"):
        platform(Kind.SEV_SNP, tmp_path).sealing_key()
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="ioctl"):
        derived_key(file.fileno())
