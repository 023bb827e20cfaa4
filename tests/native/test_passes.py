"""Both passes in C, with every instruction set, against the same in Python: the same bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from sealtune.offload.prime_check import PRIME, sums

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


def sums_of(codes: Tensor, check: Tensor | None) -> Tensor:
    return torch.zeros((len(codes), 0), dtype=torch.int64) if check is None else sums(codes, check)


def encode(call: Call, name: str, parts: Sequence[Tensor] = ()) -> list[Tensor] | str:
    """Codes, steps and sums; or what was refused. ``parts`` in the place of the call's matrix."""
    out = torch.full(call.x.shape, 7, dtype=torch.int32)
    budget = Budget(300.0, 4)
    with library.using(name):
        try:
            made = passes.encode_mask(
                parts or call.x, budget, call.pad, call.check, out, scale=call.scale
            )
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


@pytest.mark.parametrize("name", library.available())
@settings(max_examples=60, deadline=None)
@given(seeds, st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4), st.booleans())
def test_parts_side_by_side_are_one_matrix(
    name: str, seed: int, widths: list[int], turned: bool
) -> None:
    call = draw(seed, 3, sum(widths))
    whole = encode(call, name)
    parts = torch.split(call.x, widths, dim=1)
    if turned:
        parts = tuple(part.t().contiguous().t() for part in parts)
    assert_same(encode(call, name, parts), whole)


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
    encoded = passes.Encoded(torch.rand(rows, generator=made), sums_of(true, call.check))

    def decode(name: str, dtype: torch.dtype) -> Tensor:
        with library.using(name):
            return passes.unmask_decode(
                *(y, product, blind, encoded, call.scale, call.check, "here"),
                dtype=dtype,
                bias=call.bias,
            )

    full = decode(name, torch.float32)
    assert torch.equal(full, decode(library.OFF, torch.float32))
    for each in (name, library.OFF):
        assert torch.equal(decode(each, torch.bfloat16), full.to(torch.bfloat16))


@both
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cols", [1, 65, 600])
def test_nothing_of_a_row_that_is_not_finite_is_written(
    name: str, value: float, dtype: torch.dtype, cols: int
) -> None:
    x = torch.ones((3, cols), dtype=dtype)
    x[1, -1] = value
    out = torch.full((3, cols), 7, dtype=torch.int32)
    pad = PadKey(KeyStream(bytes(32)), 1)  # type: ignore[arg-type]
    with library.using(name), pytest.raises(OffloadError, match="NaN or infinity"):
        passes.encode_mask(x, Budget(300.0, 4), pad, None, out)
    assert (out[1] == 7).all()


@both
def test_what_pointers_must_not_be_made_of_is_refused(name: str) -> None:
    x, codes = torch.ones((4, 8)), torch.zeros((4, 8), dtype=torch.int32)
    check = torch.zeros((2, 8), dtype=torch.uint32)
    wrong: list[tuple[Tensor, Tensor | None, Tensor, Tensor | None]] = [
        (x.to(torch.float64), None, codes, None),
        (x, None, codes[:3], None),
        (x, None, torch.zeros((4, 16), dtype=torch.int32)[:, ::2], None),
        (x, None, codes.to(torch.int64), None),
        (x, check[:, :7], codes, None),
        (x, check.to(torch.int64), codes, None),
        (x, None, codes, torch.ones(7)),
        (x, None, codes, torch.ones(16)[::2]),
    ]
    with library.using(name):
        for parts in ([x[:, :4], x[:, :3]], [x[:, :4], x[:3, 4:]], [x, x]):
            with pytest.raises(OffloadError):
                passes.encode_mask(parts, Budget(300.0, 4), None, None, codes)
        for values, vectors, out, scale in wrong:
            with pytest.raises(OffloadError, match="of a masked product is"):
                passes.encode_mask(values, Budget(300.0, 4), None, vectors, out, scale=scale)
        encoded = passes.Encoded(torch.ones(4), torch.zeros((4, 0), dtype=torch.int64))
        for step, sums in ((encoded.step[:3], encoded.sums), (encoded.step, torch.zeros((4, 2)))):
            with pytest.raises(OffloadError, match="of a masked product is"):
                passes.unmask_decode(
                    codes, None, None, passes.Encoded(step, sums), None, None, "here"
                )
