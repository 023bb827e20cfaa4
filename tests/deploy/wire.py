"""What was captured on a host's device: frames of a pcap file, and the bytes of each connection."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_FILE_HEADER, _RECORD = 24, struct.Struct("<IIII")
_IPV4, _TCP = 0x0800, 6
_HALF = 1 << 31


@dataclass(frozen=True)
class Way:
    """One direction of a connection."""

    source: str
    source_port: int
    target: str
    target_port: int


def frames_of(path: Path) -> Iterator[bytes]:
    """Every frame of a pcap file of Ethernet frames."""
    data = path.read_bytes()
    place = _FILE_HEADER
    while place < len(data):
        _, _, kept, length = _RECORD.unpack_from(data, place)
        assert kept == length, "a frame that was cut off"
        place += _RECORD.size
        yield data[place : place + kept]
        place += kept


def streams(path: Path) -> dict[Way, bytes]:
    """What each side of each TCP connection said, in order and once; one port, one connection."""
    segments: dict[Way, dict[int, bytes]] = defaultdict(dict)
    first: dict[Way, int] = {}
    for frame in frames_of(path):
        if (found := _segment(frame)) is None:
            continue
        way, number, payload, opens = found
        if opens:
            first[way] = number + 1
        elif payload:
            offset = (number - first.setdefault(way, number) + _HALF) % (2 * _HALF) - _HALF
            held = segments[way].get(offset, b"")
            segments[way][offset] = max(held, payload, key=len)
    return {way: _joined(parts) for way, parts in segments.items()}


def talkers(ways: Iterable[Way], host: str) -> set[str]:
    """Addresses that said something to ``host``, or to which it did.

    A device carries more: a switch sends a frame to every port while it does not know the one
    behind which the receiver is, as after a cut.
    """
    return {way.source for way in ways if host in (way.source, way.target)}


def _joined(parts: dict[int, bytes]) -> bytes:
    """Overlaps once; what was never captured is left out, and not bridged by anything."""
    whole, end = bytearray(), 0
    for offset in sorted(parts):
        payload = parts[offset][max(0, end - offset) :]
        whole += payload
        end = max(end, offset + len(parts[offset]))
    return bytes(whole)


def _segment(frame: bytes) -> tuple[Way, int, bytes, bool] | None:
    """A TCP segment over IPv4: its way, number, payload, and whether it opens a connection."""
    if len(frame) < 34 or int.from_bytes(frame[12:14], "big") != _IPV4:
        return None
    packet = frame[14:]
    head = (packet[0] & 15) * 4
    if packet[9] != _TCP:
        return None
    # segments that the card would have cut up may say that they are 0 bytes long
    length = int.from_bytes(packet[2:4], "big") or len(packet)
    source, target = (".".join(map(str, packet[at : at + 4])) for at in (12, 16))
    tcp = packet[head:length]
    ports = struct.unpack_from(">HHI", tcp)
    payload = tcp[(tcp[12] >> 4) * 4 :]
    return Way(source, ports[0], target, ports[1]), ports[2], payload, bool(tcp[13] & 2)
