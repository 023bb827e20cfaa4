"""A TDX guest's event log: which event made a register what it is.

The firmware's log (in the guest ``/sys/firmware/acpi/tables/data/CCEL``) is not signed. Replayed,
it must give the registers of a quote, which is: then it tells why they are not an image's.

Source: TCG PC Client Platform Firmware Profile, section "Event Logging" (crypto agile form); UEFI
2.10 section 38.4.1: measurement register 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.

Trust domain: operator (untrusted), and whoever compares.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sealtune.errors import ConfigError, Problem
from sealtune.images.authenticode import authenticode
from sealtune.images.image import Image
from sealtune.images.measure_tdx import RTMR1_EVENTS, extended, options_digest, sha384
from sealtune.job.storage import read_bounded

_LARGEST = 1 << 20  # firmware reserves 64 KiB
_SHA384 = 0x000C
_SIZES = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64}  # of SHA-1, -256, -384, -512
_NO_ACTION = 3
_REGISTERS = {1: "RTMR0", 2: "RTMR1", 3: "RTMR2", 4: "RTMR3"}
_END = 0xFFFFFFFF  # the table is longer than the log: this fills it, or zeros do
_WORD = struct.Struct("<I")


class Event(NamedTuple):
    """One event.

    Attributes:
        register: that it extends, such as ``RTMR1``.
        kind: the event's type.
        digest: SHA-384, that the register is extended by.
        data: what the log says of it.
    """

    register: str
    kind: int
    digest: bytes
    data: bytes


def read_log(path: Path) -> list[Event]:
    """The events that extend a register.

    Raises:
        ConfigError: no such log, or one that is cut short.
    """

    def refused(said: str) -> ConfigError:
        return ConfigError(str(path), [Problem("(file)", said)])

    try:
        return _events(read_bounded(path, _LARGEST, refused))
    except (struct.error, KeyError, IndexError) as error:
        raise refused(f"is no event log of a TDX guest, or cut short: {error}") from error


def _events(data: bytes) -> list[Event]:
    first, kind, size = struct.unpack_from("<II20xI", data)
    if first not in (0, 1) or kind != _NO_ACTION:
        raise KeyError("it does not begin with a specification")
    at, events = 32 + size, []
    while at + 8 <= len(data):
        index, kind = struct.unpack_from("<II", data, at)
        if index in (0, _END) and kind in (0, _END):
            break
        (count,) = _WORD.unpack_from(data, at + 8)
        at, digests = at + 12, {}
        for _ in range(min(count, len(_SIZES) + 1)):
            (algorithm,) = struct.unpack_from("<H", data, at)
            digests[algorithm] = data[at + 2 : at + 2 + _SIZES[algorithm]]
            at += 2 + _SIZES[algorithm]
        (size,) = _WORD.unpack_from(data, at)
        text = data[at + 4 : at + 4 + size]
        at += 4 + size
        if at > len(data):
            raise IndexError("an event goes beyond the end")
        if kind != _NO_ACTION:
            events.append(Event(_REGISTERS[index], kind, digests[_SHA384], text))
    return events


def replayed(events: Sequence[Event]) -> dict[str, bytes]:
    """The registers that follow from a log."""
    return {
        name: extended([event.digest for event in events if event.register == name])
        for name in _REGISTERS.values()
    }


class Compared(NamedTuple):
    """One place in a register's log.

    Attributes:
        register: which.
        what: the event that an image has there, or "nothing".
        same: whether the log has it.
        found: what the log says of its event, for people.
    """

    register: str
    what: str
    same: bool
    found: str


def compared(image: Image, events: Sequence[Event], *, initrd_last: bool = False) -> list[Compared]:
    """RTMR1 and RTMR2 of a log beside those of an image, event by event."""
    wanted = {
        "RTMR1": [
            ("the kernel", authenticode(image.vmlinuz.read_bytes())),
            *((_words(event) or "separator", sha384(event)) for event in RTMR1_EVENTS),
        ],
        "RTMR2": [
            ("the command line", options_digest(image.cmdline, initrd_last=initrd_last)),
            ("the initial file system", sha384(image.initrd.read_bytes())),
        ],
    }
    rows = []
    for register, ours in wanted.items():
        theirs = [event for event in events if event.register == register]
        for place in range(max(len(ours), len(theirs))):
            what, digest = ours[place] if place < len(ours) else ("nothing", b"")
            event = theirs[place] if place < len(theirs) else None
            said = "nothing" if event is None else f"{event.digest.hex()} {_words(event.data)}"
            same = event is not None and event.digest == digest
            rows.append(Compared(register, what, same, said.strip()))
    return rows


def _words(data: bytes) -> str:
    """Letters in an event's data, also of UTF-16, for people."""
    text = "".join(chr(byte) for byte in data if 32 <= byte < 127)
    return text[:60] if len(text) > 3 else ""
