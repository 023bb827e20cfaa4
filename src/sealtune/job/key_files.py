"""Key files of participants: Ed25519, in PEM that openssl reads too.

    private, public = new_key("north", Path("keys"))   # keys/north.key (0600), keys/north.pub
    key = load_private(private)

The private file is not encrypted: its protection is its mode, and the machine that it lies on.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealtune.errors import ConfigError, KeyFileError, MalformedManifestError, Problem, StorageError
from sealtune.job.keys import public_from_hex, public_hex
from sealtune.job.sections import NAME_PATTERN
from sealtune.job.storage import read_bounded, storage_error

MAX_FILE = 1 << 14  # bytes; a key file has about 120
PRIVATE, PUBLIC = ".key", ".pub"


def new_key(org: str, folder: Path) -> tuple[Path, Path]:
    """Make ``ORG.key`` (mode 0600) and ``ORG.pub`` in ``folder``; nothing is overwritten.

    Raises:
        ConfigError: ``org`` is no name.
        StorageError: one of the files is there, or cannot be written; neither is left behind.
    """
    if not is_name(org):
        raise ConfigError(
            "keys new",
            [Problem("ORG", "should be a name of lower-case letters, digits and hyphens")],
            hint="the same name goes into the manifest, as in --participant north=north.pub",
        )
    private, public = folder / f"{org}{PRIVATE}", folder / f"{org}{PUBLIC}"
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise StorageError(
                f"{path} is already there",
                hint="keys are never overwritten: choose another --out, or move the old one away",
            )
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    create_file(private, secret, 0o600)
    try:
        create_file(public, public_pem(key.public_key()), 0o644)
    except StorageError:
        private.unlink()
        raise
    return private, public


def is_name(org: str) -> bool:
    """Whether an organisation may be called so; the rule is that of site names."""
    return re.fullmatch(NAME_PATTERN, org) is not None


def load_private(path: Path) -> Ed25519PrivateKey:
    """The private key in ``path``.

    Raises:
        KeyFileError: unreadable, not a private Ed25519 key, or others may read it.
    """
    try:
        key = pem.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} holds no private key in PEM form",
            hint="give the .key file that `sealtune keys new` made",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds a key of another kind than Ed25519")
    read_private(path)
    return key


def read_private(path: Path) -> bytes:
    """The contents of a file of a private key of any kind.

    Raises:
        KeyFileError: unreadable, too long, or others may read it.
    """
    data = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeyFileError(
            f"{path} can be read by others (mode {mode:04o})",
            hint=f"chmod 600 {path}; if others may have read it, make a new key",
        )
    return data


def load_public(path: Path) -> Ed25519PublicKey:
    """The public key in ``path``, or the public half of the private key there.

    Raises:
        KeyFileError: unreadable, or no Ed25519 key that can be trusted to be somebody's own.
    """
    data = _read(path)
    if b"PRIVATE KEY" in data:
        return load_private(path).public_key()
    try:
        key = pem.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} holds no public key in PEM form",
            hint="give the .pub file that `sealtune keys new` made",
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path} holds a key of another kind than Ed25519")
    try:
        return public_from_hex(public_hex(key))
    except MalformedManifestError as error:
        raise KeyFileError(f"{path}: {error.message}") from error


def spaced(digits: str) -> str:
    """Hex digits in groups of four, to compare by eye or on the telephone."""
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The PEM file's contents."""
    return key.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path) -> bytes:
    def failure(words: str) -> KeyFileError:
        return KeyFileError(f"key file {path} {words}", hint="`sealtune keys new ORG` makes a key")

    return read_bounded(path, MAX_FILE, failure)


def create_file(path: Path, data: bytes, mode: int) -> None:
    """Write a new file that never had a wider mode; only a complete one stays.

    Raises:
        StorageError: it is there already, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise storage_error(path, error) from error
