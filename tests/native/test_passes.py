"""Both passes in C, with every instruction set, against the same in Python: the same bits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sealtune.errors import OffloadError
from sealtune.native import library
from sealtune.offload import passes
from sealtune.offload.codes import RESULT_LIMIT, Budget
from sealtune.offload.keystream import KeyStream
from sealtune.offload.pads import PadKey
from sealtune.offload.prime_check import PRIME

SETS = [name for name in library.available() if name != library.OFF]
COLUMNS = (1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 127, 511, 512, 513, 576, 1025)
EXTREMES = (0.0, -0.0, 1e-45, -1e-38, 1e-20, 1e-30, 1.0, -1.0, 1e20, 3.4e38, -3.4e38)

seeds = st.integers(0, 2**31)
sizes = st.tuples(st.sampled_from((0, 1, 2, 7)), st.sampled_from(COLUMNS))
both = pytest.mark.parametrize("name", SETS)


@dataclass
class Call:
    """Everything that one call of both passes takes."""

    x: Tensor
    scale: Tensor | None
    bias: Tensor | None
    check: Tensor | None
    pad: PadKey | None


def draw(seed: int, rows: int, cols: int) -> Call:
    made = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made)

    def coin() -> bool:
        return bool(torch.rand(1, generator=made) < 0.5)

    x = some(rows, cols) * 10.0 ** float(torch.randint(-20, 20, (1,), generator=made))
    if coin() and x.numel():
        places = torch.randint(0, x.numel(), (3,), generator=made)
        chosen = torch.randint(0, len(EXTREMES), (3,), generator=made)
        x.view(-1)[places] = torch.tensor(EXTREMES)[chosen]
    if coin():
        x = x.to(torch.bfloat16)
        x[~torch.isfinite(x)] = 3e38
    if coin():
        x = torch.cat([x, x], dim=1)[:, :cols]  # rows at a distance
    vectors = int(torch.randint(0, 4, (1,), generator=made))
    check = torch.randint(0, PRIME, (vectors, cols), generator=made).to(torch.uint32)
    stream = KeyStream(bytes(range(32)))
    return Call(
        x,
        some(cols).abs() if coin() else None,
        some(cols) if coin() else None,
        check if vectors else None,
        PadKey(stream, 2**64 - 1 - seed) if coin() else None,  # type: ignore[arg-type]
    )


def encode(call: Call, name: str) -> list[Tensor] | str:
    """Codes, steps and sums; or what was refused."""
    out = torch.full(call.x.shape, 7, dtype=torch.int32)
    budget = Budget(300.0, 4)
    with library.using(name):
        try:
            made = passes.encode_mask(call.x, budget, call.pad, call.check, out, scale=call.scale)
        except OffloadError as error:
            return error.message
    return [out, made.step, made.sums]


def assert_same(one: list[Tensor] | str, other: list[Tensor] | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
    else:
        assert all(map(torch.equal, one, other))


@both
@settings(max_examples=150, deadline=None)
@given(seeds, sizes)
def test_encoding_gives_the_bits_of_the_reference(
    name: str, seed: int, size: tuple[int, int]
) -> None:
    call = draw(seed, *size)
    assert_same(encode(call, name), encode(call, library.OFF))


@both
@settings(max_examples=150, deadline=None)
@given(seeds, sizes)
def test_decoding_gives_the_bits_of_the_reference(
    name: str, seed: int, size: tuple[int, int]
) -> None:
    call = draw(seed, *size)
    made = torch.Generator().manual_seed(seed)
    true = torch.randint(1 - RESULT_LIMIT, RESULT_LIMIT, size, generator=made, dtype=torch.int32)
    if true.numel():
        true.view(-1)[-1] = RESULT_LIMIT - 1
        true.view(-1)[0] = 1 - RESULT_LIMIT
    product, blind = None, None
    y = true
    if call.pad is not None:
        product = torch.randint(-(2**31), 2**31, size, generator=made).to(torch.int32)
        y = true + product
        if call.scale is not None:
            blind = call.pad
            product = product + blind.stream.mask(blind.index, *size)
    rows = size[0]
    from sealtune.offload import slow_passes

    encoded = passes.Encoded(torch.rand(rows, generator=made), slow_passes._sums(true, call.check))

    def decode(name: str) -> Tensor:
        with library.using(name):
            return passes.unmask_decode(
                *(y, product, blind, encoded, call.scale, call.check, "here"), bias=call.bias
            )

    assert torch.equal(decode(name), decode(library.OFF))
