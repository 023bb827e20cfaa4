"""One-time pads: uniform ring elements from AES-256-CTR, each used once.

The key is drawn from the operating system when the enclave starts and never leaves its memory.
So a restarted enclave cannot repeat a pad: there is no counter on disk that could be rolled back.
Each pad owns one value of the upper 64 bits of the counter block, hence 2^64 blocks of key stream.

Pads from floating-point generators, or linear combinations of a pool of pads, are no one-time pads
(arXiv 2602.11088 recovers inputs from a pool within minutes); neither exists here.

Trust domain: client enclave.
"""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass, field

import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from sealtune.errors import PadReuseError

_BLOCK = 16  # bytes of AES


@dataclass
class Pad:
    """A pad and the product that takes it off again.

    Attributes:
        index: its place in the key stream.
        rows, cols: its shape.
        product: int32 [T, N], ``pad @ weight``, computed ahead in the enclave.
    """

    index: int
    rows: int
    cols: int
    product: Tensor
    _used: bool = field(default=False, repr=False)

    def use(self) -> None:
        """Mark as used.

        Raises:
            PadReuseError: it was used before.
        """
        if self._used:
            raise PadReuseError(
                f"pad {self.index} was asked for twice",
                hint="this is a defect: stop the run and report it",
            )
        self._used = True


class PadStream:
    """Key stream of one enclave process for one purpose.

    Args:
        purpose: domain separation, such as job id and site.
        secret: 32 bytes that it follows from; default: drawn here, and known to nobody else.
    """

    def __init__(self, purpose: str, secret: bytes | None = None) -> None:
        info = b"sealtune pad v1 " + purpose.encode()
        hkdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info)
        self._key = hkdf.derive(secrets.token_bytes(32) if secret is None else secret)
        self._next = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._zeros = bytes(0)

    def reserve(self) -> int:
        """A fresh pad index; never the same one twice.

        Raises:
            PadReuseError: the process was forked, so parent and child would share pads.
        """
        if os.getpid() != self._pid:
            raise PadReuseError(
                "the enclave process was forked; its pads would be used twice",
                hint="start each enclave as a process of its own",
            )
        with self._lock:
            index = self._next
            self._next += 1
        return index

    def mask(self, index: int, rows: int, cols: int) -> Tensor:
        """The pad with this index: uniform int32 [rows, cols]."""
        size = rows * cols * 4
        if len(self._zeros) < size:
            self._zeros = bytes(size)
        counter = index.to_bytes(8, "big") + bytes(8)
        stream = Cipher(algorithms.AES256(self._key), modes.CTR(counter)).encryptor()
        out = torch.empty(size + _BLOCK, dtype=torch.uint8)
        stream.update_into(memoryview(self._zeros)[:size], out.numpy().data)
        return out[:size].view(torch.int32).view(rows, cols)
