"""Signing keys: private files stay private, weak keys are refused."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from sealtune.errors import ConfigError, KeyFileError, MalformedManifestError, StorageError
from sealtune.job import key_files
from sealtune.job.key_files import load_private, load_public, new_key, spaced
from sealtune.job.keys import SMALL_ORDER, fingerprint, public_from_hex, public_hex

P = 2**255 - 19


def test_new_keys(tmp_path: Path) -> None:
    private, public = new_key("north", tmp_path / "deep" / "keys")
    assert (private.name, public.name) == ("north.key", "north.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert sorted(p.name for p in private.parent.iterdir()) == ["north.key", "north.pub"]
    key = load_private(private).public_key()
    assert public_hex(load_public(public)) == public_hex(key) == public_hex(load_public(private))
    assert public_hex(public_from_hex(public_hex(key))) == public_hex(key)
    assert len(fingerprint(key)) == 64
    assert spaced("0123456789") == "0123 4567 89"


def test_openssl_reads_them(tmp_path: Path) -> None:
    private, public = new_key("north", tmp_path)
    try:
        done = subprocess.run(
            ["openssl", "pkey", "-in", private, "-pubout"], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no openssl here")
    assert done.stdout == public.read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    private, public = new_key("north", tmp_path)
    before = private.read_bytes()
    with pytest.raises(StorageError, match="already there"):
        new_key("north", tmp_path)
    assert private.read_bytes() == before
    private.unlink()
    with pytest.raises(StorageError, match="already there"):
        new_key("north", tmp_path)
    assert not private.exists()
    public.unlink()
    private.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="already there"):
        new_key("north", tmp_path)


def test_half_a_pair_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = key_files.create_file

    def fail(path: Path, data: bytes, mode: int) -> None:
        if path.suffix == ".pub":
            raise StorageError("no space")
        create(path, data, mode)

    monkeypatch.setattr(key_files, "create_file", fail)
    with pytest.raises(StorageError):
        new_key("north", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("org", ["", "North", "a/b", "..", "-x", "a b", "x" * 41, "a\n"])
def test_names(tmp_path: Path, org: str) -> None:
    with pytest.raises(ConfigError):
        new_key(org, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(StorageError):
        new_key("north", Path("/proc/none"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    private, _ = new_key("north", tmp_path)
    private.chmod(mode)
    with pytest.raises(KeyFileError, match="read by others"):
        load_private(private)


def test_other_files_are_refused(tmp_path: Path) -> None:
    private, public = new_key("north", tmp_path)
    with pytest.raises(KeyFileError, match="no private key"):
        load_private(public)
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_public(tmp_path / "none")
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_private(tmp_path)
    for text in (b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        public.write_bytes(text)
        with pytest.raises(KeyFileError, match="no public key"):
            load_public(public)
    public.write_bytes(b"x" * (1 << 20))
    with pytest.raises(KeyFileError, match="too long"):
        load_public(public)
    other = ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    with pytest.raises(KeyFileError, match="another kind"):
        load_private(private)
    public.write_bytes(
        other.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(KeyFileError, match="another kind"):
        load_public(public)


def test_an_encrypted_private_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.key"
    path.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="no private key"):
        load_private(path)


def test_the_small_order_list_is_complete() -> None:
    """Each y on the list doubles three times to the neutral element; there are eight points."""
    d = -121665 * pow(121666, -1, P) % P
    points = 0
    for y in SMALL_ORDER:
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if (x * x - square) % P:
            x = x * pow(2, (P - 1) // 4, P) % P
        assert (x * x - square) % P == 0, "not on the curve"
        points += 1 if x == 0 else 2
        point = (x, y)
        for _ in range(3):
            a, b = point
            t = d * a * a * b * b
            point = (
                2 * a * b * pow(1 + t, -1, P) % P,
                (b * b + a * a) * pow(1 - t, -1, P) % P,
            )
        assert point == (0, 1)
    assert points == 8


@pytest.mark.parametrize("y", [*sorted(SMALL_ORDER), P, P + 1, P + 9])
@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_weak_keys_are_refused(tmp_path: Path, y: int, sign: int) -> None:
    raw = (y | sign).to_bytes(32, "little")
    with pytest.raises(MalformedManifestError, match="no honest"):
        public_from_hex(raw.hex())
    path = tmp_path / "weak.pub"
    path.write_bytes(key_files.public_pem(ed25519.Ed25519PublicKey.from_public_bytes(raw)))
    with pytest.raises(KeyFileError, match="no honest"):
        load_public(path)


@pytest.mark.parametrize("text", ["", "00", "AB" * 32, "zz" * 32, " " * 64, "ab" * 33])
def test_malformed_keys(text: str) -> None:
    with pytest.raises(MalformedManifestError):
        public_from_hex(text)
