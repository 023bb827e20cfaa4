"""Event logs of TDX guests: replayed, compared with an image, and hostile ones."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.errors import ConfigError
from sealtune.images.authenticode import authenticode
from sealtune.images.event_log import _events, compared, read_log, replayed
from sealtune.images.image import Image
from sealtune.images.measure_tdx import options_digest, sha384, tdx_registers
from tests.attest import intel
from tests.images import made_up
from tests.images.test_measure_tdx import INITRD, KERNEL, OPTIONS, RECORDED_EVENTS, RTMR1, RTMR2

# index of a register in a log, type, digest, data
Row = tuple[int, int, bytes, bytes]
_APPLICATION, _ACTION, _SEPARATOR, _TAG = 0x80000003, 0x80000007, 4, 6
_hex = bytes.fromhex


def log(rows: Sequence[Row], *, filler: bytes = b"\xff") -> bytes:
    """A log as firmware lays it out, in a table that is longer."""
    specification = b"Spec ID Event03\0" + bytes(17)
    data = struct.pack("<II20xI", 1, 3, len(specification)) + specification
    for index, kind, digest, text in rows:
        data += struct.pack("<IIIH", index, kind, 1, 0x000C) + digest
        data += struct.pack("<I", len(text)) + text
    return data + filler * 64


def boot(kernel: bytes, options: bytes, initrd: bytes) -> list[Row]:
    """The events of a direct boot, in the order in which machines recorded them."""
    calling, separator, leaving, left = map(_hex, RECORDED_EVENTS)
    return [
        (1, 0x8000000B, sha384(b"table"), b"\x09TdxTable"),
        (2, _APPLICATION, kernel, "kernel".encode("utf-16-le")),
        (2, _ACTION, calling, b"Calling EFI Application from Boot Option"),
        (2, _SEPARATOR, separator, bytes(4)),
        (3, _TAG, options, b"\xed\x22\x3b\x8f\x1a\0\0\0LOADED_IMAGE::LoadOptions\0"),
        (3, _TAG, initrd, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0"),
        (2, _ACTION, leaving, b"Exit Boot Services Invocation"),
        (2, _ACTION, left, b"Exit Boot Services Returned with Success"),
    ]


def booted(image: Image) -> list[Row]:
    kernel = authenticode(image.vmlinuz.read_bytes())
    return boot(kernel, options_digest(image.cmdline), sha384(image.initrd.read_bytes()))


@pytest.mark.parametrize("filler", [b"\xff", b"\0"])
def test_a_recorded_log_gives_the_registers_that_were_reported(
    filler: bytes, tmp_path: Path
) -> None:
    (tmp_path / "log").write_bytes(
        log(boot(_hex(KERNEL), _hex(OPTIONS), _hex(INITRD)), filler=filler)
    )
    registers = replayed(read_log(tmp_path / "log"))
    assert registers["RTMR1"].hex() == RTMR1
    assert registers["RTMR2"].hex() == RTMR2
    assert registers["RTMR3"] == bytes(48)


def test_the_event_that_differs_is_named(tmp_path: Path) -> None:
    image = made_up.image(tmp_path / "image")
    rows = booted(image)
    assert all(row.same for row in compared(image, _events(log(rows))))
    other = made_up.image(tmp_path / "other", initrd=b"with a back door")
    (differs,) = [row for row in compared(other, _events(log(rows))) if not row.same]
    assert (differs.register, differs.what) == ("RTMR2", "the initial file system")
    assert "Linux initrd" in differs.found


def test_older_firmware_shows_in_the_log(tmp_path: Path) -> None:
    """Without the separator, as firmware of 2023 had it."""
    image = made_up.image(tmp_path)
    rows = [row for row in booted(image) if row[1] != _SEPARATOR]
    differs = [row for row in compared(image, _events(log(rows))) if not row.same]
    assert differs[0].what == "separator"
    assert differs[-1].found == "nothing"


def test_an_event_more_is_not_overlooked(tmp_path: Path) -> None:
    image = made_up.image(tmp_path)
    rows = [*booted(image), (3, _TAG, sha384(b"more"), b"something more")]
    (differs,) = [row for row in compared(image, _events(log(rows))) if not row.same]
    assert differs.what == "nothing"
    assert "something more" in differs.found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"noise" * 100,
        log(boot(bytes(48), bytes(48), bytes(48)), filler=b"")[:-3],
        log([(9, _ACTION, bytes(48), b"")]),
        log([(2, _ACTION, bytes(48), b"")]).replace(struct.pack("<H", 12), struct.pack("<H", 99)),
    ],
)
def test_what_is_no_log_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(ConfigError, match="event log"):
        read_log(tmp_path / "log")


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 900),
)
def test_a_hostile_log_is_refused_or_read(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(log(boot(bytes(48), bytes(48), bytes(48))))
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(struct.error, KeyError, IndexError):
        for event in _events(bytes(data[: len(data) - cut])):
            assert len(event.digest) <= 48


def test_the_command_names_the_event_and_refuses_another_boots_log(tmp_path: Path) -> None:
    image = made_up.image(tmp_path / "image")
    rows = booted(image)
    (tmp_path / "log").write_bytes(log(rows))
    registers = replayed(_events(log(rows)))
    assert {name: registers[name] for name in ("RTMR1", "RTMR2")} == tdx_registers(image)
    change = {136 + 48 * (4 + n): registers[f"RTMR{n}"] for n in range(4)}
    (tmp_path / "quote").write_bytes(intel.quote(intel.td_body(change=change)))

    def run(folder: str, *more: str) -> object:
        words = ["image", "measure", str(tmp_path / folder), "--event-log", str(tmp_path / "log")]
        return CliRunner().invoke(app, [*words, *more], env={"COLUMNS": "200"})

    quote = ("--from", str(tmp_path / "quote"))
    same = run("image", *quote, "--json")
    assert all(event["same"] for event in json.loads(same.stdout)["events"])
    made_up.image(tmp_path / "other", cmdline="quiet")
    assert "OTHER RTMR2  the command line: the log has" in run("other", *quote).stdout
    (tmp_path / "log").write_bytes(log(rows[1:]))
    refused = run("image", *quote)
    assert refused.exit_code == 2
    assert "RTMR0" in refused.stderr
    assert run("image").exit_code == 2
