"""RTMR1 and RTMR2 of TDX: values that real machines reported, and made-up images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sealtune.attest.platforms.intel.dcap import TD_REGISTERS, measurement_of
from sealtune.errors import ConfigError
from sealtune.images.authenticode import authenticode
from sealtune.images.image import Image
from sealtune.images.measure_tdx import (
    RTMR1_EVENTS,
    extended,
    options_digest,
    sha384,
    tdx_measurement,
    tdx_registers,
)
from tests.images import made_up

# Events of the firmware's log, as real machines recorded them (confidential-containers/trustee,
# deps/verifier/test_data/CCEL_data_ovmf_out.json; Dstack-TEE event logs).
RECORDED_EVENTS = (
    "77a0dab2312b4e1e57a84d865a21e5b2ee8d677a21012ada"
    "819d0a98988078d3d740f6346bfe0abaa938ca20439a8d71",
    "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e57"
    "6573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0",
    "214b0bef1379756011344877743fdc2a5382bac6e70362d6"
    "24ccf3f654407c1b4badf7d8f9295dd3dabdef65b27677e0",
    "0a2e01c85deae718a530ad8c6d20a84009babe6c8989269e"
    "950d8cf440c6e997695e64d455c4174a652cd080f6230b74",
)
# A dstack machine's log of a direct boot (published with its quote's registers): the kernel's
# digest, and RTMR1; those of command line and initial file system, and RTMR2.
KERNEL = (
    "f51c5215e1ae1e5202fb0a710248e13c2bf2824b7f0b2a16"
    "75f63e9fd37befb93fbb97a4f8630879168b76aee3b198e2"
)
RTMR1 = (
    "4a7db64a609c77e85f603c23e9a9fd03bfd9e6b52ce527f7"
    "74a598e66d58386026cea79b2aea13b81a0b70cfacdec0ca"
)
OPTIONS = (
    "a68ac6d65dd62f392826c2ae44f6846363ced3418c96574b"
    "3e168de9205c8553b8198c3b9d206bc432d70a923c25b098"
)
INITRD = (
    "21a1d39f7395e15c35b91dacf14714cf2e9ead77e69f076c"
    "e164798272c1838312b2d82b3307b91929a4d7dbc6f1e48b"
)
RTMR2 = (
    "8a4fe048fea22663152ef128853caa5c033cbe66baf32ba1"
    "ff7f6b1afc1624c279f50a4cbc522a735ca6f69551e61ef2"
)
# QEMU 10.2.4, edk2 202602, an Ubuntu kernel (published by aleph-vm): what the firmware measures of
# the command line, and RTMR2 with an initial file system of this digest.
CMDLINE = "root=LABEL=cloudimg-rootfs ro console=ttyS0"
NEWER_OPTIONS = (
    "b8c85d40a1d555a451571e24d7d7c4c331bc15721d6e4b2a"
    "5cb5093214c44174822a0916aa4d622d4309644de99cd59c"
)
NEWER_INITRD = (
    "88de90bedcc560064688c74ccd6609a25ed9d48b0a0e13d8"
    "b2a558212724d8755b2c8114dcf04b8d51ea4cf7782e3091"
)
NEWER_RTMR2 = (
    "972547466cb6bcb8a23cd479e9258c3affbbc4f0ba2805d7"
    "32477200d0dff8432447c7a775e70453cdb51f018a306ece"
)
_hex = bytes.fromhex


def test_events_are_those_that_machines_recorded() -> None:
    assert tuple(sha384(event).hex() for event in RTMR1_EVENTS) == RECORDED_EVENTS


def test_registers_of_a_recorded_boot_follow_from_its_log() -> None:
    assert extended([_hex(KERNEL), *map(sha384, RTMR1_EVENTS)]).hex() == RTMR1
    assert extended([_hex(OPTIONS), _hex(INITRD)]).hex() == RTMR2


def test_a_command_line_is_measured_as_on_a_machine() -> None:
    assert options_digest(CMDLINE).hex() == NEWER_OPTIONS
    assert extended([_hex(NEWER_OPTIONS), _hex(NEWER_INITRD)]).hex() == NEWER_RTMR2


def test_older_firmware_adds_the_initial_file_system_at_the_end(tmp_path: Path) -> None:
    """As Debian's edk2 2022.11 and 2025.02 did in emulation; 2026.08 put it at the beginning."""
    image = made_up.image(tmp_path)
    text = f"{made_up.CMDLINE} initrd=initrd\0"
    assert options_digest(image.cmdline, initrd_last=True) == sha384(text.encode("utf-16-le"))
    older, newer = tdx_registers(image, initrd_last=True), tdx_registers(image)
    assert older["RTMR1"] == newer["RTMR1"]
    assert older["RTMR2"] != newer["RTMR2"]
    machine = {"MRTD": b"m" * 48, "RTMR0": b"r" * 48}
    everything = dict.fromkeys(TD_REGISTERS, bytes(48)) | machine | older
    assert tdx_measurement(image, machine, initrd_last=True) == measurement_of(everything)


def test_an_image_extends_the_registers_in_this_order(tmp_path: Path) -> None:
    image = made_up.image(tmp_path)
    registers = tdx_registers(image)
    value = bytes(48)
    for digest in (authenticode(image.vmlinuz.read_bytes()), *map(_hex, RECORDED_EVENTS)):
        value = sha384(value + digest)
    assert registers["RTMR1"] == value
    text = "initrd=initrd " + made_up.CMDLINE
    utf16 = b"".join(char.encode() + b"\0" for char in text) + b"\0\0"
    second = sha384(sha384(bytes(48) + sha384(utf16)) + sha384(b"initrd"))
    assert registers["RTMR2"] == second


def test_the_aggregators_image(aggregator: Image) -> None:
    registers = tdx_registers(aggregator)
    kernel = authenticode(aggregator.vmlinuz.read_bytes())
    assert registers["RTMR1"] == extended([kernel, *map(_hex, RECORDED_EVENTS)])
    initrd = hashlib.sha384(aggregator.initrd.read_bytes()).digest()
    assert registers["RTMR2"] == extended([options_digest(aggregator.cmdline), initrd])


def test_each_file_changes_its_register_alone(tmp_path: Path) -> None:
    base = tdx_registers(made_up.image(tmp_path / "base"))
    kernel = tdx_registers(made_up.image(tmp_path / "kernel", kernel=made_up.pe((b"C" * 512,))))
    initrd = tdx_registers(made_up.image(tmp_path / "initrd", initrd=b"other"))
    cmdline = tdx_registers(made_up.image(tmp_path / "cmdline", cmdline="quiet"))
    changed = [
        [name for name in base if one[name] != base[name]] for one in (kernel, initrd, cmdline)
    ]
    assert changed == [["RTMR1"], ["RTMR2"], ["RTMR2"]]


def test_the_whole_is_what_a_policy_compares(tmp_path: Path) -> None:
    image = made_up.image(tmp_path)
    machine = {"MRTD": b"m" * 48, "RTMR0": b"r" * 48}
    everything = dict.fromkeys(TD_REGISTERS, bytes(48)) | machine | tdx_registers(image)
    assert tdx_measurement(image, machine) == measurement_of(everything)
    # what a quote said of its own kernel does not count
    assert tdx_measurement(image, machine | {"RTMR1": b"x" * 48}) == measurement_of(everything)


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({}, r"MRTD.*\n.*RTMR0"),
        ({"MRTD": b"m" * 48}, "RTMR0"),
        ({"MRTD": bytes(48), "RTMR0": b"r" * 48}, "MRTD"),
        ({"MRTD": b"m" * 47, "RTMR0": b"r" * 48}, "48 bytes"),
        ({"MRTD": b"m" * 48, "RTMR0": b"r" * 48, "RTMR4": bytes(48)}, "RTMR4"),
    ],
)
def test_registers_that_are_missing_or_none(
    machine: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        tdx_measurement(made_up.image(tmp_path), machine)
