"""One-time pads: uniform ring elements from AES-256-CTR, each used once.

The key is drawn from the operating system when the enclave starts and never leaves its memory.
So a restarted enclave cannot repeat a pad: there is no counter on disk that could be rolled back.
Each pad owns one value of the upper 64 bits of the counter block, hence 2^64 blocks of key stream;
how rows lie in them says ``keystream``.

Pads from floating-point generators, or linear combinations of a pool of pads, are no one-time pads
(arXiv 2602.11088 recovers inputs from a pool within minutes); neither exists here.

Trust domain: client enclave.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from sealtune.errors import PadReuseError
from sealtune.offload.keystream import KEY_BYTES, KeyStream


@dataclass(frozen=True)
class PadKey:
    """Where a mask lies in a key stream; whoever has the stream can make it from this.

    Attributes:
        stream: the key stream.
        index: of ``PadStream.reserve``.
    """

    stream: PadStream
    index: int

    def spend(self) -> None:
        """Use it for a mask; see ``PadStream.spend``."""
        self.stream.spend(self.index)


@dataclass(frozen=True)
class Pad:
    """A mask for the codes of one call, and what takes it off the answer.

    Attributes:
        key: of the mask r [T, K].
        product: int32 [T, N], ``W r``. Called once the codes are on their way, so it may take its
            time: it makes the product or waits for whoever does.
        blind: key of a second mask [T, N] that lies on the product, or None.
    """

    key: PadKey
    product: Callable[[], Tensor]
    blind: PadKey | None = None


class PadSource(Protocol):
    """Who makes pads: the enclave itself, or a second accelerator.

    Attributes:
        suspect: who besides the accelerator may have made a product wrong, for messages.
    """

    suspect: str

    def take(self, group: str, rows: int, *, backward: bool) -> Pad:
        """A pad for one call, never handed out before.

        Args:
            group: name of the linear group.
            rows: T.
            backward: for ``g W`` instead of ``x W^T``.

        Raises:
            PadReuseError: the process was forked.
            SealtuneError: making pads ahead has failed.
        """
        ...

    def rest(self, *, wait: bool = False) -> None:
        """Nothing is to be done until the next ``take``: time to make pads ahead.

        Args:
            wait: return when there is nothing left to make, or making has failed.
        """
        ...

    def close(self) -> None:
        """Make no more, and let go of what is held."""
        ...


class PadStream(KeyStream):
    """Key stream of one enclave process for one purpose, and which of its pads are taken.

    Args:
        purpose: domain separation, such as job id and site.
        secret: 32 bytes that it follows from; default: drawn here, and known to nobody else.
    """

    def __init__(self, purpose: str, secret: bytes | None = None) -> None:
        info = b"sealtune pad v1 " + purpose.encode()
        hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info)
        super().__init__(hkdf.derive(secrets.token_bytes(32) if secret is None else secret))
        self._next = 0
        self._unspent: set[int] = set()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def reserve(self) -> int:
        """A fresh pad index; never the same one twice.

        Raises:
            PadReuseError: the process was forked, so parent and child would share pads.
        """
        self.refuse_fork()
        with self._lock:
            index = self._next
            self._next += 1
            self._unspent.add(index)
        return index

    def spend(self, index: int) -> None:
        """Mark a pad as used, before anything is masked with it, or as thrown away.

        Raises:
            PadReuseError: it was spent before or never reserved, or the process was forked.
        """
        self.refuse_fork()
        with self._lock:
            if index not in self._unspent:
                raise PadReuseError(
                    f"pad {index} was asked for twice",
                    hint="this is a defect: stop the run and report it",
                )
            self._unspent.remove(index)

    def refuse_fork(self) -> None:
        """Stop a child process.

        Raises:
            PadReuseError: the process was forked.
        """
        if os.getpid() != self._pid:
            raise PadReuseError(
                "the enclave process was forked; its pads would be used twice",
                hint="start each enclave as a process of its own",
            )
