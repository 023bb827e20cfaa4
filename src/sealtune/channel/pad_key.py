"""The key of a pad accelerator, to which enclaves seal the seeds of their pads.

    pair = made_pad_key(Path("pads.hpke.key"))     # mode 0600; a key that is there is kept
    pair.public_bytes.hex()                        # goes into the card, and into the manifest

Trust domain: operator of a pad accelerator.
"""

from __future__ import annotations

from pathlib import Path

from sealtune.channel.hpke import KeyPair
from sealtune.errors import KeyFileError, KeyReleaseError
from sealtune.job.key_files import create_file, read_private


def made_pad_key(path: Path) -> KeyPair:
    """The key pair in ``path``, which is made if it is not there.

    Raises:
        KeyFileError: it cannot be read, is no such key, or others may read it.
        StorageError: it cannot be written.
    """
    if path.exists():
        return load_pad_key(path)
    pair = KeyPair.generate()
    create_file(path, pair.private().hex().encode() + b"\n", 0o600)
    return pair


def load_pad_key(path: Path) -> KeyPair:
    """The key pair in ``path``.

    Raises:
        KeyFileError: it cannot be read, is no such key, or others may read it.
    """
    try:
        return KeyPair.from_private(bytes.fromhex(read_private(path).decode()))
    except (ValueError, KeyReleaseError) as error:
        raise KeyFileError(
            f"{path} holds no key of a pad accelerator",
            hint="`sealtune pad-accelerator describe` makes one",
        ) from error
