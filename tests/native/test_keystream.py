"""The key stream by the processor's own instructions against OpenSSL's."""

from __future__ import annotations

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sealtune.errors import OffloadError
from sealtune.native import library
from sealtune.offload.keystream import KeyStream

KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
both = pytest.mark.parametrize("name", library.available())


@both
@pytest.mark.parametrize("index", [0, 1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("cols", [1, 3, 4, 5, 31, 32, 33, 63, 64, 65, 576])
def test_each_row_begins_at_a_block_of_its_own(name: str, index: int, cols: int) -> None:
    rows, wide = 3, -(-cols // 4)
    with library.using(name):
        mask = KeyStream(KEY).mask(index, rows, cols)
    for row in range(rows):
        counter = index.to_bytes(8, "big") + (row * wide).to_bytes(8, "big")
        encryptor = Cipher(algorithms.AES256(KEY), modes.CTR(counter)).encryptor()
        words = encryptor.update(bytes(4 * cols))
        expected = torch.frombuffer(bytearray(words), dtype=torch.int32)
        assert torch.equal(mask[row], expected)


@both
def test_no_rows_make_no_words(name: str) -> None:
    with library.using(name):
        assert KeyStream(KEY).mask(0, 0, 5).shape == (0, 5)


@both
@pytest.mark.parametrize("index", [-1, 2**64])
def test_an_index_that_would_wrap_is_refused(name: str, index: int) -> None:
    with library.using(name), pytest.raises(OffloadError, match="no index"):
        KeyStream(KEY).mask(index, 1, 4)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(OffloadError, match="32 bytes"):
        KeyStream(KEY[:16])
