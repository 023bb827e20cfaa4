"""Cut activations as bytes, against NumPy's own reading of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch import Tensor

from sealtune.errors import DataError
from sealtune.model.activations import Form, bytes_per_token, pack, unpack

FORMS: tuple[Form, ...] = ("fp32", "bf16", "int8")
BF16_MAX = float(torch.finfo(torch.bfloat16).max)
SHAPES = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def samples(largest: float = float(np.finfo(np.float32).max), *, tiny: bool = True) -> Any:
    """float32 [T, D] of any finite values up to ``largest``."""
    largest = float(np.float32(largest))
    values = st.floats(
        -largest, largest, width=32, allow_subnormal=tiny, allow_nan=False, allow_infinity=False
    )
    return arrays(np.float32, SHAPES, elements=values).map(torch.from_numpy)


def scales_of(data: bytes, tokens: int) -> NDArray[np.float64]:
    """The bfloat16 at the end of an int8 sample: the upper halves of float32."""
    upper = np.frombuffer(data[-2 * tokens :], "<u2").astype("<u4") << 16
    return upper.view("<f4").astype(np.float64)


@pytest.mark.parametrize(
    ("form", "width", "size"),
    [("fp32", 64, 256), ("bf16", 64, 128), ("int8", 64, 66), ("int8", 1, 3), ("bf16", 1, 2)],
)
def test_bytes_per_token(form: Form, width: int, size: int) -> None:
    assert bytes_per_token(form, width) == size


@settings(max_examples=150, deadline=None)
@given(samples(1e38), st.sampled_from(FORMS))
def test_sizes_and_shapes_follow_from_the_form(hidden: Tensor, form: Form) -> None:
    tokens, width = hidden.shape
    data = pack(hidden, form)
    assert isinstance(data, bytes)
    assert len(data) == tokens * bytes_per_token(form, width)
    back = unpack(data, form, width)
    assert back.shape == hidden.shape
    assert back.dtype == torch.float32
    assert torch.equal(unpack(memoryview(data), form, width), back)


@settings(max_examples=200, deadline=None)
@given(samples())
def test_float32_comes_back_bit_for_bit(hidden: Tensor) -> None:
    back = unpack(pack(hidden, "fp32"), "fp32", hidden.shape[1])
    assert torch.equal(back.view(torch.int32), hidden.view(torch.int32))
    assert pack(hidden, "fp32") == hidden.numpy().astype("<f4").tobytes()


@settings(max_examples=200, deadline=None)
@given(samples(BF16_MAX))
def test_bfloat16_is_torchs_own_rounding(hidden: Tensor) -> None:
    data = pack(hidden, "bf16")
    back = unpack(data, "bf16", hidden.shape[1])
    assert torch.equal(back.view(torch.int32), hidden.bfloat16().float().view(torch.int32))
    upper = np.frombuffer(data, "<u2").astype("<u4") << 16  # the upper half of a float32
    assert np.array_equal(upper.view("<f4").reshape(hidden.shape), back.numpy())


def test_what_bfloat16_cannot_hold_is_refused_when_packing() -> None:
    with pytest.raises(DataError):
        pack(torch.full((1, 2), 3.4e38), "bf16")


@settings(max_examples=300, deadline=None)
@given(samples(tiny=False))
def test_int8_is_off_by_half_a_step_at_most(hidden: Tensor) -> None:
    tokens, width = hidden.shape
    data = pack(hidden, "int8")
    back = unpack(data, "int8", width).numpy().astype(np.float64)
    exact = hidden.numpy().astype(np.float64)
    scale = scales_of(data, tokens)
    codes = np.frombuffer(data, np.int8, tokens * width).reshape(tokens, width)
    assert np.allclose(back, codes * scale[:, None], rtol=1e-6, atol=0)  # a product in float32
    assert np.abs(codes.astype(int)).max() <= 127
    largest = np.abs(exact).max(axis=1)
    error = np.abs(back - exact).max(axis=1)
    assert (error <= 0.5 * scale * (1 + 1e-4)).all()
    normal = largest > 1e-30
    ideal = largest / 127
    assert (scale >= ideal * (1 - 1e-6))[normal].all()  # so that codes never clip
    assert (scale <= ideal * (1 + 2**-7) * (1 + 1e-6))[normal].all()


@settings(max_examples=100, deadline=None)
@given(samples(1e-36))
def test_int8_of_next_to_nothing_is_next_to_nothing(hidden: Tensor) -> None:
    back = unpack(pack(hidden, "int8"), "int8", hidden.shape[1])
    assert float((back - hidden).abs().max()) <= 1e-38


def test_int8_uses_its_whole_range() -> None:
    """Scales are rounded up to a bfloat16 and no further: the largest code is 126 or 127."""
    hidden = torch.randn((500, 16), generator=torch.Generator().manual_seed(0)) * 7
    codes = np.frombuffer(pack(hidden, "int8"), np.int8, hidden.numel()).reshape(500, 16)
    assert set(np.abs(codes.astype(int)).max(axis=1)) == {126, 127}
    exact = torch.full((1, 3), 127.0)  # its scale is 1, with nothing to round
    assert pack(exact, "int8") == bytes([127, 127, 127, 0x80, 0x3F])


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_zeros_stay_zeros(form: Form) -> None:
    hidden = torch.zeros((3, 5))
    hidden[1] = torch.tensor([1.0, -2.0, 0.5, 0.0, 4.0])
    back = unpack(pack(hidden, form), form, 5)
    assert not back[0].any()
    assert not back[2].any()
    assert float((back[1] - hidden[1]).abs().max()) <= 2 / 127


def test_the_scale_of_nothing_is_one() -> None:
    """Nothing is divided by zero, whatever a processor makes of that."""
    assert pack(torch.zeros((1, 3)), "int8") == bytes(3) + b"\x80\x3f"


def test_a_single_huge_channel_does_not_reach_other_tokens() -> None:
    hidden = torch.randn((4, 32), generator=torch.Generator().manual_seed(1))
    hidden[2, 7] = 1e6
    data = pack(hidden, "int8")
    back, scale = unpack(data, "int8", 32), scales_of(data, 4)
    assert back[2, 7] == pytest.approx(1e6, rel=0.01)
    assert not back[2].index_fill(0, torch.tensor(7), 0).any()  # what shares its token drowns
    others = torch.tensor([0, 1, 3])
    assert float((back - hidden)[others].abs().max()) <= scale[others.numpy()].max() / 2 * 1.0001
    assert scale[others.numpy()].max() < 0.05


def test_the_largest_float_survives() -> None:
    top = float(torch.finfo(torch.float32).max)
    for value in (top, top * 0.999, top * 0.99, top / 2, BF16_MAX):
        hidden = torch.tensor([[value, -value, 1.0]])
        back = unpack(pack(hidden, "int8"), "int8", 3)
        assert float(((back - hidden) / value).abs().max()) <= 0.5 / 126


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_not_sent(form: Form, value: float) -> None:
    hidden = torch.ones((3, 4))
    hidden[2, 1] = value
    with pytest.raises(DataError, match="hold NaN or infinity"):
        pack(hidden, form)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0x7F81])  # +-infinity, NaN
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_is_not_taken(form: Form, bits: int) -> None:
    good = pack(torch.ones((2, 3)), form)
    value = bits.to_bytes(2, "little")
    if form == "fp32":
        value = b"\0\0" + value
    bad = good[: -len(value)] + value  # the last value, or the last scale
    unpack(good, form, 3)
    with pytest.raises(DataError, match="hold NaN or infinity"):
        unpack(bad, form, 3)


def test_a_scale_that_is_not_finite_is_not_taken_even_for_zeros() -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        unpack(bytes(3) + b"\x80\x7f", "int8", 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [1, 3, 64])
def test_every_wrong_length_is_refused(form: Form, width: int) -> None:
    each = bytes_per_token(form, width)
    for size in range(3 * each + 1):
        if size and size % each == 0:
            assert unpack(bytes(size), form, width).shape == (size // each, width)
        else:
            with pytest.raises(DataError, match=f"{size} bytes are no {form} activations"):
                unpack(bytes(size), form, width)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(FORMS), st.integers(1, 9))
@example(b"\xff" * 12, "fp32", 3)
@example(b"\x80" * 5, "int8", 3)
def test_arbitrary_bytes_give_finite_values_or_a_data_error(
    data: bytes, form: Form, width: int
) -> None:
    try:
        hidden = unpack(data, form, width)
    except DataError:
        return
    assert hidden.shape == (len(data) // bytes_per_token(form, width), width)
    assert hidden.dtype == torch.float32
    assert torch.isfinite(hidden).all()


@pytest.mark.parametrize("form", FORMS)
def test_unpacked_values_do_not_share_memory_with_the_message(form: Form) -> None:
    """The message's buffer may be reused, and may be read-only."""
    data = bytearray(pack(torch.ones((2, 4)), form))
    hidden = unpack(memoryview(data), form, 4)
    data[:] = bytes(len(data))
    assert torch.equal(hidden.round(), torch.ones((2, 4)))


@pytest.mark.parametrize("form", FORMS)
def test_slices_and_transposed_tensors_are_packed_as_they_look(form: Form) -> None:
    hidden = torch.randn((6, 8), generator=torch.Generator().manual_seed(2))
    for view in (hidden[::2], hidden[:, 1:5], hidden.t()):
        assert pack(view, form) == pack(view.clone(memory_format=torch.contiguous_format), form)
