"""Pinned bytes of ring, codes, pads and checks, and a slow way to each of them.

Everything is made twice, by sealtune and by Python's integers, ``hmac`` and single AES blocks, and
both must give what is written here: another implementation that does speaks the same protocol.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import math
import secrets
import struct

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sealtune import frames
from sealtune.frames import Frame
from sealtune.job.plan import LinearGroup
from sealtune.offload import prime_check, ring, wire
from sealtune.offload.codes import Budget
from sealtune.offload.enclave_pads import EnclavePads
from sealtune.offload.frozen import FrozenGroup
from sealtune.offload.in_process import InProcess
from sealtune.offload.masked import GroupChannel, Link
from sealtune.offload.pads import PadStream
from tests.offload.integers import encoded, multiply, wrap

ENTROPY = bytes(range(32))
PURPOSE = "0123abcd/north"

# --- ring --------------------------------------------------------------------------------------

# code -> its four digits, lowest first
DIGITS = {
    0: (0, 0, 0, 0),
    1: (1, 0, 0, 0),
    -1: (-1, 0, 0, 0),
    127: (127, 0, 0, 0),
    128: (-128, 1, 0, 0),
    -128: (-128, 0, 0, 0),
    -129: (127, -1, 0, 0),
    32767: (-1, -128, 1, 0),
    32896: (-128, -127, 1, 0),
    0x01020304: (4, 3, 2, 1),
    0x7F7F7F7F: (127, 127, 127, 127),
    0x7F7F7F80: (-128, -128, -128, -128),  # carries out of the highest digit: gone mod 2^32
    -(2**31): (0, 0, 0, -128),
    2**31 - 1: (-1, 0, 0, -128),
    -0x7F7F7F80: (-128, -127, -127, -127),
}


def balanced(value: int) -> tuple[int, ...]:
    """Digits in [-128, 127] by division with remainder."""
    found = []
    for _ in range(4):
        digit = (value + 128) % 256 - 128
        found.append(digit)
        value = (value - digit) // 256
    return tuple(found)


@pytest.mark.parametrize(("value", "digits"), DIGITS.items())
def test_digits(value: int, digits: tuple[int, ...]) -> None:
    codes = torch.tensor([[value]], dtype=torch.int32)
    assert balanced(value) == digits
    assert tuple(ring.split_digits(codes).flatten().tolist()) == digits
    assert wire.tensor_bytes(ring.balance(codes)) == struct.pack("<4b", *digits)
    assert wrap(sum(d << 8 * i for i, d in enumerate(digits))) == value
    planes = torch.tensor(digits, dtype=torch.int32).view(4, 1, 1)
    assert ring.recombine(planes).tolist() == [[value]]


LEFT = [[2**31 - 1, -(2**31), 1, 0x01020304], [-1, 0x7F7F7F80, -129, 2**30]]
WEIGHT = [[127, -128, 1], [-128, 127, 0], [3, -5, 7], [-127, 2, -128]]
PRODUCT = [[32904, -2113665405, -16876026], [-2143273474, -1069530235, -904]]


def test_products() -> None:
    codes, weight = torch.tensor(LEFT, dtype=torch.int32), torch.tensor(WEIGHT, dtype=torch.int8)
    assert multiply(codes, weight) == PRODUCT
    assert ring.product(codes, weight).tolist() == PRODUCT
    assert ring.product(codes, weight.t().contiguous().t()).tolist() == PRODUCT
    body = wire.tensor_bytes(ring.product(codes, weight))
    assert body == b"".join(struct.pack("<i", v) for row in PRODUCT for v in row)
    assert wire.codes_from_bytes(body, 2, 3).tolist() == PRODUCT


# --- codes -------------------------------------------------------------------------------------

BUDGET = 8454143.0  # bits are left for a norm of 127 and 4 columns, less rounding
CODES = [[5072486, 6763314, 0, 0], [-5636096, 2818048, 0, 5636096], [0, 0, 0, 0], [0, 0, 0, 0]]


def float32(value: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_codes() -> None:
    rows = [[3.0, 4.0, 0.0, 0.0], [-2.0, 1.0, 0.0, 2.0], [0.0] * 4, [1e-21, 0.0, 0.0, 0.0]]
    budget = Budget(127.0, 4)
    assert budget.code_norm == (1 - 2**-14) * 2**30 / 127 - 1 == BUDGET
    codes, step = encoded(torch.tensor(rows), budget)
    for row, found, unit in zip(rows, codes.tolist(), step.flatten().tolist(), strict=True):
        norm = math.hypot(*row)  # 5, 3, 0: exact in float32
        scale = float32(float32(budget.code_norm) / norm) if norm > 1e-20 else 0.0
        assert found == [round(float32(value * scale)) for value in row]
        assert unit == pytest.approx(norm / budget.code_norm, rel=1e-7)
    assert codes.tolist() == CODES


# --- pads --------------------------------------------------------------------------------------

KEY = "78b207871e59ba69f131e27dc419ff9ab267e77e9db942a50b4ccff2d5c26bf2"
STREAM = {  # index -> its first 48 bytes
    0: (
        "d060c92ac6284db990780265b6a4d9f4076d5e58c51252b00140827a2ff73f28"
        "e065a5087081e6f7d30453af0b8728ee"
    ),
    1: (
        "5dc912ad66ec3807b6080cf8392ed29449780558a417bac8c846f747b0f04a70"
        "272e0fe808dafe2c5ea2f826c834f16a"
    ),
    2: (
        "dc15a552672efe5192ecf324a85e4823f2510b2f2a874bc9173f9a9e4f0d55b8"
        "ceea76c0f11d8dbec57c1ded8d8615a2"
    ),
}


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system's random bytes are these: 0, 1, 2, ..., 255, 0, ..."""
    monkeypatch.setattr(
        secrets, "token_bytes", lambda count: bytes(i % 256 for i in range(count or 0))
    )


def hkdf(entropy: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, one block."""
    extracted = hmac.new(bytes(32), entropy, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


def key_stream(key: bytes, index: int, rows: int, cols: int) -> bytes:
    """AES-256 of (index, 0), (index, 1), ... as 64-bit big-endian pairs; a row begins a block."""
    encrypt = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()
    row = -(-4 * cols // 16)  # blocks
    blocks = [encrypt.update(struct.pack(">QQ", index, i)) for i in range(rows * row)]
    return b"".join(b"".join(blocks[t * row :][:row])[: 4 * cols] for t in range(rows))


@pytest.mark.usefixtures("fixed")
def test_pads() -> None:
    key = hkdf(ENTROPY, b"sealtune pad v1 " + PURPOSE.encode())
    assert key.hex() == KEY
    stream = PadStream(PURPOSE)
    for index, expected in STREAM.items():
        assert stream.reserve() == index
        assert key_stream(key, index, 3, 4).hex() == expected
        for rows, cols in ((3, 4), (1, 12), (2, 5), (7, 3)):
            found = bytes(wire.tensor_bytes(stream.mask(index, rows, cols)))
            assert found == key_stream(key, index, rows, cols)


# --- what crosses --------------------------------------------------------------------------------

GROUP = LinearGroup(
    name="model.layers.0.q", members=("q",), in_features=4, out_features=(3,), backward=True
)
X = [[3.0, 4.0, 0.0, 0.0], [-2.0, 1.0, 0.0, 2.0]]
WIRE = (
    "53544631470000002000000000000000000000007b226b696e64223a2270726f64756374222c2267"
    "726f7570223a226d6f64656c2e6c61796572732e302e71222c226261636b77617264223a66616c73"
    "652c22726f7773223a327d36c7162bf85bb4b990780265b6a4d9f4076d0858c5127db00140827a2f"
    "f79528"
)


@pytest.mark.usefixtures("fixed")
def test_masked_codes_and_their_frame() -> None:
    weight = torch.tensor([[127, 0, 0, 0], [0, 3, 4, 0], [0, 0, 5, 12]], dtype=torch.int8)
    scale = torch.tensor([1.0, 0.5, 2.0])
    frozen = FrozenGroup.read(GROUP, scale, iter([weight]), integrity_bits=40, keep=True)
    seen = []

    class Recorder:
        def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
            meta = {"group": group, "backward": backward, "rows": len(codes)}
            seen.append(frames.encode(Frame("product", meta, wire.tensor_bytes(codes))))
            right = weight if backward else weight.t()
            return torch.tensor(multiply(codes, right), dtype=torch.int32)

    seconds = dict.fromkeys(("accelerator", "pads", "passes"), 0.0)
    pads = EnclavePads(PadStream(PURPOSE), {GROUP.name: frozen}, 0, seconds)
    near = InProcess(Recorder(), (GROUP,))  # type: ignore[arg-type]
    result = GroupChannel(frozen, Link(near, pads, seconds)).multiply(
        torch.tensor(X), backward=False
    )

    pad = key_stream(hkdf(ENTROPY, b"sealtune pad v1 " + PURPOSE.encode()), 0, 2, 4)
    masked = [
        wrap(code + mask)
        for code, mask in zip(CODES[0] + CODES[1], struct.unpack("<8i", pad), strict=True)
    ]
    meta = b'{"kind":"product","group":"model.layers.0.q","backward":false,"rows":2}'
    head = b"STF1" + struct.pack("<IQI", len(meta), 32, 0) + meta
    assert seen == [head + struct.pack("<8i", *masked)]
    assert seen[0].hex() == WIRE
    expected = torch.tensor(X) @ weight.t().float() * scale
    assert torch.allclose(result, expected, rtol=1e-6, atol=1e-4)


# --- the check -----------------------------------------------------------------------------------

SECRETS = bytes(range(1, 41))  # two vectors for the layer's three outputs, then for its four inputs
LEFT_VECTORS = [[67305985, 134678021, 202050057], [269422093, 336794129, 404166165]]
RIGHT_VECTORS = [
    [2105409154, 404034063, 1548962369, 277117037],
    [2004351106, 1010382387, 1220523694, 555026686],
]


def test_check_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = io.BytesIO(SECRETS + bytes(16))
    monkeypatch.setattr(secrets, "token_bytes", secret.read)
    maker = prime_check.VectorMaker(3, 4, 40)
    weight = torch.tensor([[127, 0, 0, 0], [0, 3, 4, 0], [0, 0, 5, 12]])
    maker.add(0, weight.double())
    check = maker.vectors(backward=False)
    assert check.left.tolist() == LEFT_VECTORS
    drawn = [list(struct.unpack("<3I", SECRETS[i : i + 12])) for i in (0, 12)]
    assert drawn == LEFT_VECTORS
    p = 2**31 - 1
    expected = [
        [sum(s * w for s, w in zip(v, column, strict=True)) % p for column in weight.t().tolist()]
        for v in LEFT_VECTORS
    ]
    assert check.right.tolist() == RIGHT_VECTORS == expected
