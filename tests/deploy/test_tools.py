"""The tools that look for leaks find what is there."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from safetensors.numpy import save_file

from sealtune.demo.hosts.capture import header, record
from tests.deploy import needles
from tests.deploy.wire import Way, frames_of, streams, talkers

PEM = Encoding.PEM


def frame(number: int, payload: bytes, flags: int = 16) -> bytes:
    """An Ethernet frame with a TCP segment from 10.83.0.11:5000 to 10.83.0.12:9092."""
    tcp = struct.pack(">HHIIBBHHH", 5000, 9092, number % 2**32, 0, 5 << 4, flags, 0, 0, 0) + payload
    addresses = bytes([10, 83, 0, 11, 10, 83, 0, 12])
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + tcp


def capture(path: Path, *frames: bytes) -> Path:
    path.write_bytes(header() + b"".join(record(each, 1.0) for each in frames))
    return path


def test_segments_are_put_in_order_and_read_once(tmp_path: Path) -> None:
    start = 2**32 - 5  # its number wraps
    segments = [
        frame(start, b"", flags=2),
        frame(start + 7, b"le in"),
        frame(start + 1, b"a need"),
        frame(start + 1, b"a need"),  # sent again
        frame(start + 10, b"in a hay"),  # overlaps
        bytes(60),  # ARP or whatever
    ]
    path = capture(tmp_path / "wire.pcap", *segments)
    assert len(list(frames_of(path))) == 6
    way = Way("10.83.0.11", 5000, "10.83.0.12", 9092)
    assert streams(path) == {way: b"a needle in a hay"}
    assert needles.found_in(path.read_bytes(), {"n": b"needle"}) == []
    assert needles.found_in(streams(path)[way], {"n": b"needle"}) == ["n"]


def test_who_talks_to_others_on_the_same_device_is_left_out() -> None:
    ways = [Way("10.83.0.11", 1, "10.83.0.12", 2), Way("10.83.0.12", 2, "10.83.0.11", 1)]
    flooded = Way("10.83.0.13", 3, "10.83.0.12", 4)
    assert talkers([*ways, flooded], "10.83.0.11") == {"10.83.0.11", "10.83.0.12"}


def test_texts_and_words_are_found(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "acute angina", "label": "heart"}\n')
    wanted = needles.of_rows(file) | needles.of_words(["heart", "eye"])
    haystack = b"\0acute angina\0heart eye"
    assert needles.found_in(haystack, wanted) == ["rows.jsonl:1", "word heart"]


def test_tensors_are_found_as_they_lie_in_memory(tmp_path: Path) -> None:
    tensor = np.random.default_rng(1).standard_normal((40, 40)).astype("<f4")
    save_file({"w": tensor, "zero": np.zeros(64, dtype="<f4")}, tmp_path / "a.safetensors")
    wanted = needles.of_adapter(tmp_path)
    assert set(needles.found_in(b"x" + tensor.tobytes(), wanted)) == set(wanted)
    assert needles.found_in(np.roll(tensor, 1).tobytes()[:16], wanted) == []


def test_private_keys_are_found_in_any_form(tmp_path: Path) -> None:
    plain = (PrivateFormat.PKCS8, NoEncryption())
    elliptic, signing = ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()
    for name, key in (("tls.key", elliptic), ("north.key", signing)):
        (tmp_path / name).write_bytes(key.private_bytes(PEM, *plain))
    node = elliptic.private_bytes(PEM, PrivateFormat.OpenSSH, NoEncryption())
    (tmp_path / "node").write_bytes(node)
    for name in ("tls.key", "north.key", "node"):
        wanted = needles.of_key(tmp_path / name)
        assert needles.found_in((tmp_path / name).read_bytes(), wanted)
    wanted = needles.of_key(tmp_path / "north.key")
    assert "north.key" in needles.found_in(signing.private_bytes_raw(), wanted)
