"""The key file of a pad accelerator: made once, for its owner's eyes alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sealtune.channel.pad_key import load_pad_key, made_pad_key
from sealtune.errors import KeyFileError


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "pads.hpke.key"
    made = made_pad_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert made_pad_key(path).public_bytes == load_pad_key(path).public_bytes == made.public_bytes


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pads.hpke.key"
    made_pad_key(path)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="can be read by others"):
        load_pad_key(path)


@pytest.mark.parametrize("content", [b"", b"00", b"zz" * 96, b"\xff" * 96, b"00" * 97])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pads.hpke.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="holds no key of a pad accelerator"):
        load_pad_key(path)
