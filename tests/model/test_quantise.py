"""Rounding of frozen weights to int8."""

from __future__ import annotations

import pytest
import torch

from sealtune.errors import ModelError
from sealtune.model.quantise import quantise
from sealtune.offload.codes import Budget
from tests.offload.integers import encoded


def test_a_weight_is_within_half_a_step_of_its_codes() -> None:
    weight = torch.randn(12, 30) * torch.logspace(-6, 6, 12)[:, None]
    codes, scale = quantise(weight)
    assert codes.dtype == torch.int8
    assert ((weight - codes * scale[:, None]).abs() <= scale[:, None] * 0.5001).all()


def test_a_row_of_zeros_takes_no_bits_from_the_gradient_of_the_others() -> None:
    """Backward, what is encoded is the gradient times the scales: one of 1 would be its largest."""
    weight = torch.randn(8, 16) * 1e-3
    weight[3] = 0
    codes, scale = quantise(weight)
    assert not codes[3].any()
    gradient = torch.randn(5, 8)
    budget = Budget(float(codes.double().norm(dim=0).max()), 8)
    found, step = encoded(gradient * scale, budget)
    wanted = (gradient * scale).double() @ codes.double()
    error = (found.double() * step) @ codes.double() - wanted
    assert error.norm() / wanted.norm() < 1e-6


def test_a_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ModelError, match="NaN or infinity"):
        quantise(torch.tensor([[1.0, float("nan")]]))
