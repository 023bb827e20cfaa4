"""Reads the archives that images are made of, with no code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Member(NamedTuple):
    """One file or folder: its mode, owner, time and contents."""

    mode: int
    user: int
    group: int
    time: int
    data: bytes


def members(path: Path) -> dict[str, Member]:
    """Everything in an archive, by path, in its order."""
    raw, at = path.read_bytes(), 0
    found: dict[str, Member] = {}
    while True:
        assert raw[at : at + 6] == b"070701"
        fields = [int(raw[i : i + 8], 16) for i in range(at + 6, at + 110, 8)]
        _, mode, user, group, _, time, size, *_, length, check = fields
        assert check == 0
        name = raw[at + 110 : at + 110 + length - 1].decode()
        assert raw[at + 110 + length - 1] == 0
        start = at + 110 + length
        start += -start % 4
        if name == "TRAILER!!!":
            assert not any(raw[start:])
            return found
        assert name not in found
        found[name] = Member(mode, user, group, time, raw[start : start + size])
        at = start + size
        at += -at % 4


def unpack(path: Path, folder: Path) -> None:
    """Write the regular files of an archive below ``folder``."""
    for name, member in members(path).items():
        if member.mode & 0o100000:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(member.data)
