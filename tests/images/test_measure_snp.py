"""Launch measurements of SEV-SNP: published ones, and those of made-up images against an oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import ConfigError, DigestMismatchError
from sealtune.images.image import Image
from sealtune.images.measure_snp import SnpLaunch, snp_measurement
from tests.images import made_up
from tests.images.snp_oracle import launch_digest

# sev-snp-measure 0.0.13, tests/test_guest.py: digests of its firmware ovmf_AmdSev_suffix.bin with
# EPYC-v4, empty kernel and initrd (None: none at all). After the firmware's page the digest is
FIRMWARE = (
    "086e2e9149ebf45abdc3445fba5b2da8270bdbb04094d7a2"
    "c37faaa4b24af3aa16aff8c374c2a55c467a50da6d466b74"
)
PUBLISHED = [
    (1, 0x21, "", "329c8ce0972ae52343b64d34a434a86f245dfd74f5ed7aae"
     "15d22efc78fb9683632b9b50e4e1d7fa41179ef98a7ef198"),
    (1, 0x01, "", "ddc5224521617a536ee7ce9dd6224d1b58a8d4fda1c741f3"
     "ac99fc4bfa04ba6e9fc98646d4a07a9079397fa3852819b5"),
    (1, 0x21, "console=ttyS0 loglevel=7", "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb2"
     "8c653360fe4b3aba7e534442e7e1e17895dfe778d0228977"),
    (1, 0x01, "console=ttyS0 loglevel=7", "6d287813eb5222d770f75005c664e34c204f385ce832cc2c"
     "e7d0d6f354454362f390ef83a92046c042e706363b4b08fa"),
    (1, 0x21, None, "e1e1ca029dd7973ab9513295be68198472dcd4fc834bd9af"
     "9b63f6e8a1674dbf281a9278a4a2ebe0eed9f22adbcd0e2b"),
    (1, 0x01, None, "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6"
     "013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d"),
    (4, 0x21, "", "4953b1fb416fa874980e8442b3706d345926d5f38879134e"
     "00813c5d7abcbe78eafe7b422907be0b4698e2414a631942"),
    (4, 0x01, "", "5061fffb019493a903613d56d54b94912a1a2f9e4502385f"
     "5c194616753720a92441310ba6c4933de877c36e23046ad5"),
]  # fmt: skip


@pytest.mark.parametrize(("vcpus", "features", "cmdline", "expected"), PUBLISHED)
def test_published_measurements(
    vcpus: int, features: int, cmdline: str | None, expected: str, tmp_path: Path
) -> None:
    from sevsnpmeasure import guest, vcpu_types
    from sevsnpmeasure.sev_mode import SevMode

    given = None if cmdline is None else (b"", b"", cmdline)
    oracle = launch_digest(
        FIRMWARE, made_up.AMDSEV, made_up.RESET, made_up.HASHES, given,
        vcpus=vcpus, vcpu_type="EPYC-v4", features=features,
    )  # fmt: skip
    assert oracle == expected
    # the package that is used, with firmware that says the same of itself
    (tmp_path / "ovmf").write_bytes(made_up.firmware())
    empty = None if cmdline is None else "/dev/null"
    measured = guest.calc_launch_digest(
        SevMode.SEV_SNP, vcpus, vcpu_types.CPU_SIGS["EPYC-v4"], str(tmp_path / "ovmf"),
        empty, empty, cmdline, features, snp_ovmf_hash_str=FIRMWARE,
    )  # fmt: skip
    assert measured.hex() == expected


@pytest.mark.parametrize("vcpu_type", ["EPYC-Milan", "EPYC-Genoa"])
@pytest.mark.parametrize(("vcpus", "features", "pages"), [(1, 1, 1), (2, 1, 3), (5, 0x21, 2)])
def test_an_image_is_measured_as_the_oracle_does(
    vcpu_type: str, vcpus: int, features: int, pages: int, tmp_path: Path
) -> None:
    image = made_up.image(tmp_path / "image", initrd=b"many files" * 1000)
    firmware = made_up.firmware(pages=pages, filler=b"F")
    (tmp_path / "ovmf").write_bytes(firmware)
    launch = SnpLaunch(
        ovmf=tmp_path / "ovmf", vcpus=vcpus, vcpu_type=vcpu_type, guest_features=features
    )
    files = (image.vmlinuz.read_bytes(), image.initrd.read_bytes(), image.cmdline)
    oracle = launch_digest(
        firmware, made_up.AMDSEV, made_up.RESET, made_up.HASHES, files,
        vcpus=vcpus, vcpu_type=vcpu_type, features=features,
    )  # fmt: skip
    assert snp_measurement(image, launch).hex() == oracle


def test_the_aggregators_image_is_measured_as_the_oracle_does(
    aggregator: Image, tmp_path: Path
) -> None:
    firmware = made_up.firmware(pages=4)
    launch = _launch(tmp_path, firmware, vcpus=4)
    files = (aggregator.vmlinuz.read_bytes(), aggregator.initrd.read_bytes(), aggregator.cmdline)
    oracle = launch_digest(
        firmware, made_up.AMDSEV, made_up.RESET, made_up.HASHES, files,
        vcpus=4, vcpu_type="EPYC-Genoa", features=1,
    )  # fmt: skip
    assert snp_measurement(aggregator, launch).hex() == oracle


def _launch(folder: Path, firmware: bytes | None = None, **more: Any) -> SnpLaunch:
    (folder / "ovmf").write_bytes(made_up.firmware() if firmware is None else firmware)
    return SnpLaunch(**({"ovmf": folder / "ovmf", "vcpus": 2, "vcpu_type": "EPYC-Genoa"} | more))


def test_everything_that_is_started_is_measured(tmp_path: Path) -> None:
    base = made_up.image(tmp_path / "base")
    others = [
        made_up.image(tmp_path / "kernel", kernel=made_up.pe((b"C" * 512,))),
        made_up.image(tmp_path / "initrd", initrd=b"other"),
        made_up.image(tmp_path / "cmdline", cmdline=f"{made_up.CMDLINE} debug"),
    ]
    launch = _launch(tmp_path)
    found = [snp_measurement(image, launch) for image in (base, *others)]
    for more in ({"vcpus": 3}, {"vcpu_type": "EPYC-Milan"}, {"guest_features": 0x21}):
        found.append(snp_measurement(base, _launch(tmp_path, **more)))
    found.append(snp_measurement(base, _launch(tmp_path, made_up.firmware(filler=b"G"))))
    assert len(set(found)) == len(found) == 8
    assert {len(one) for one in found} == {48}


@pytest.mark.parametrize(
    ("firmware", "words"),
    [
        (made_up.firmware(made_up.AMDSEV[:5] + made_up.AMDSEV[6:]), "measures no kernel"),
        (made_up.firmware(hashes=0), "measures no kernel"),
        (b"", "no multiple"),
        (b"x" * 4097, "no multiple"),
        (b"x" * 4096, "measures no kernel"),
        (made_up.firmware(((0x800000, 0x1000, 77), *made_up.AMDSEV)), "no firmware for SEV-SNP"),
        (made_up.firmware(((0x800000, 0x1001, 1), *made_up.AMDSEV)), "cannot be measured"),
    ],
)
def test_firmware_that_says_nothing_of_the_kernel_is_refused(
    firmware: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        snp_measurement(made_up.image(tmp_path / "image"), _launch(tmp_path, firmware))
    assert "AmdSevX64" in error.value.hint


def test_a_processor_that_qemu_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="EPYC-Genoa"):
        snp_measurement(made_up.image(tmp_path / "i"), _launch(tmp_path, vcpu_type="EPYC-Naples"))


def test_an_image_that_was_changed_is_not_measured(tmp_path: Path) -> None:
    made_up.image(tmp_path)
    (tmp_path / "initrd").write_bytes(b"hostile")
    with pytest.raises(DigestMismatchError):
        Image.read(tmp_path)
