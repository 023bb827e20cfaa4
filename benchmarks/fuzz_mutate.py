"""How `benchmarks/fuzz.py` makes inputs: damage to bytes, and to JSON that stays JSON."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Make = Callable[[random.Random], bytes]
_HOLE = "@hole@"
# JSON values that some parser somewhere did not expect, as text.
NASTY = (
    "null",
    "true",
    "[]",
    "{}",
    '""',
    "0",
    "-1",
    "1.5",
    "NaN",
    "-Infinity",
    "1e999",
    "1e-400",
    str(2**31),
    str(2**53 + 1),
    str(2**64),
    "9" * 400,
    "9" * 5000,
    '"\\ud800"',
    '"\\u0000"',
    '"\\u202e\\u001b[2J"',
    json.dumps("x" * 10_000),
    '"00"',
    '"aGk="',
    "[" * 300 + "]" * 300,
    "[" * 990 + "]" * 990,
    "[" * 100_000,
    '{"a":' * 400 + "1" + "}" * 400,
    '{"a":1,"a":2}',
    "[[[1]]]",
    "{",
)


def damage(draw: random.Random, seed: bytes, other: bytes = b"") -> bytes:
    """A few of: flip a bit, overwrite a field, cut, drop, repeat, insert, splice."""
    data = bytearray(seed)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(8):
            case 0 | 1 if data:
                data[at % len(data)] ^= 1 << draw.randrange(8)
            case 2:
                extreme = draw.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * draw.choice(
                    [1, 2, 4, 8]
                )
                data[at : at + len(extreme)] = extreme
            case 3:
                del data[at:]
            case 4:
                del data[at : at + draw.randrange(40)]
            case 5:
                data[at:at] = data[draw.randrange(len(data) + 1) :][:200]
            case 6 if other:
                data[at:] = other[draw.randrange(len(other)) :]
            case _:
                data[at:at] = draw.randbytes(draw.randrange(20))
    return bytes(data)


def raw(*seeds: bytes) -> Make:
    """Damaged seeds, and now and then random bytes."""

    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.03:
            return draw.randbytes(draw.randrange(600))
        return damage(draw, draw.choice(seeds), draw.choice(seeds))

    return make


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return found
    for key, inner in items:
        found.append((value, key))
        found += _places(inner)
    return found


def nasty_json(draw: random.Random, seed: str) -> str:
    """JSON with one value replaced, dropped, renamed or repeated."""
    value = json.loads(seed)
    places = _places(value)
    if not places:
        return draw.choice(NASTY)
    holder, key = draw.choice(places)
    match draw.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[draw.choice(["", "x" * 300, "kind", str(key) + "\ud800"])] = holder.pop(key)
        case 2 if isinstance(holder, list):
            holder *= draw.choice([2, 50])
        case 3:
            other, where = draw.choice(places)
            holder[key] = json.loads(json.dumps(other[where]))
        case _:
            holder[key] = _HOLE
    return json.dumps(value, separators=(",", ":")).replace(f'"{_HOLE}"', draw.choice(NASTY))


def json_or_raw(*seeds: bytes) -> Make:
    """Half nasty JSON, half damaged bytes."""
    bytewise = raw(*seeds)

    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return bytewise(draw)
        return nasty_json(draw, draw.choice(seeds).decode()).encode()

    return make


def framed(*seeds: bytes) -> Make:
    """`sealtune.frames` with nasty meta and right lengths, or damaged bytes."""
    bytewise = raw(*seeds)
    header = struct.Struct("<4sIQI")

    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return bytewise(draw)
        seed = draw.choice(seeds)
        magic, meta_size, _, zero = header.unpack_from(seed)
        body = seed[header.size + meta_size :]
        meta = nasty_json(draw, seed[header.size : header.size + meta_size].decode()).encode()
        if draw.random() < 0.3:
            body = damage(draw, body)
        size = draw.choice([len(body)] * 6 + [0, 2**31, 2**32, 2**63])
        return header.pack(magic, len(meta), size, zero) + meta + body

    return make


def safetensors(*seeds: bytes) -> Make:
    """A nasty header of the right length, or damaged bytes."""
    bytewise = raw(*seeds)
    kinds = ["F64", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "F4", "C64", "U64", "f32", ""]

    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.4:
            return bytewise(draw)
        seed = draw.choice(seeds)
        size = int.from_bytes(seed[:8], "little")
        text, body = seed[8 : 8 + size].decode(), seed[8 + size :]
        if draw.random() < 0.5:
            text = text.replace('"F32"', json.dumps(draw.choice(kinds)), draw.choice([1, 99]))
        else:
            text = nasty_json(draw, text)
        if draw.random() < 0.2:
            body = damage(draw, body)
        head = text.encode()
        return len(head).to_bytes(8, "little") + head + body

    return make


def either(*makes: Make) -> Make:
    """One of several ways."""

    def make(draw: random.Random) -> bytes:
        return draw.choice(makes)(draw)

    return make
