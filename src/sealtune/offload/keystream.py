"""AES-256-CTR as int32 words, laid out by rows: the key stream behind every pad.

The counter block is ``index (8 bytes, big-endian) || block (8 bytes, big-endian)``. Row ``t`` of a
matrix of ``cols`` words begins at block ``t * ceil(cols / 4)``, so rows can be made independently;
what is left of a row's last block is not used. Words are little-endian.
Source: NIST SP 800-38A, section 6.5.

Trust domain: client enclave; whoever holds the key.
"""

from __future__ import annotations

from ctypes import c_char_p, c_int, c_int64, c_uint64, c_void_p

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from sealtune.errors import OffloadError
from sealtune.native import library

KEY_BYTES = 32
WORDS = 4  # of one block
_BLOCK = 16  # bytes
_MASK = (c_char_p, c_uint64, c_int64, c_int64, c_void_p, c_int)


class KeyStream:
    """A key of AES-256 and what it makes; it shows the key to nobody.

    Args:
        key: 32 bytes.

    Raises:
        OffloadError: it has another length.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise OffloadError(f"a key stream's key has {KEY_BYTES} bytes, not {len(key)}")
        self.key = bytes(key)

    def at(self, index: int) -> tuple[bytes, int]:
        """The key, and the upper half of the counter block, for C.

        Raises:
            OffloadError: the index is none; C would take it mod 2^64.
        """
        if not 0 <= index < 2**64:
            raise OffloadError(f"{index} is no index of a key stream")
        return self.key, index

    def mask(self, index: int, rows: int, cols: int) -> Tensor:
        """The pad with this index, 0 to 2^64 - 1: uniform int32 [T, K]."""
        native = library.function("sealtune_mask", *_MASK)
        if native is not None:
            out = torch.empty((rows, cols), dtype=torch.int32)
            threads = torch.get_num_threads()
            if native(*self.at(index), rows, cols, out.data_ptr(), threads) == 0:
                return out  # else: the processor has no AES
        return self.words(index, rows, cols)[:, :cols].contiguous()

    def words(self, index: int, rows: int, cols: int) -> Tensor:
        """The pad with the unused words of each row's last block: int32 [T, 4 ceil(K / 4)]."""
        wide = -(-cols // WORDS) * WORDS
        size = rows * wide * 4
        key, index = self.at(index)
        counter = index.to_bytes(8, "big") + bytes(8)
        encryptor = Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor()
        out = torch.zeros(size + _BLOCK, dtype=torch.uint8)
        data = out.numpy().data
        encryptor.update_into(data[:size], data)
        return out[:size].view(torch.int32).view(rows, wide)
