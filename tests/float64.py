"""Float64 where equality is meant: two paths to the same number then agree to 1e-12.

In float32 two honest paths differ by what the processor's kernels round, and AdamW enlarges that
without bound where a gradient is near zero: there a tolerance says more of the processor than of
the code. Where float32 itself is the subject, ``as_near_as`` holds it against float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Everywhere(TorchFunctionMode):
    """Models and losses cast to float32 here and there; those casts go to float64, too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _REINTERPRET:
            return func(*args, **(kwargs or {}))
        kwargs = {key: _wider(value) for key, value in (kwargs or {}).items()}
        return _INSTEAD.get(func, func)(*map(_wider, args), **kwargs)


_REINTERPRET = {Tensor.view, torch.frombuffer}  # bytes of a file stay what they are
_INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {Tensor.float: Tensor.double}


def _wider(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def in_float64() -> Iterator[None]:
    """Compute in float64. What is loaded from a file is float32: call ``.double()`` on it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Everywhere():
            yield
    finally:
        torch.set_default_dtype(before)


def as_near_as(found: Tensor, other: Tensor, exact: Tensor, factor: float = 8.0) -> bool:
    """Whether ``found`` is as near to ``exact`` as another honest float32 path, up to ``factor``.

    Args:
        found: what is tested, in float32.
        other: another way to compute it, in float32.
        exact: the same in float64.
        factor: how much larger its error may be.
    """
    assert found.dtype == other.dtype == torch.float32
    assert exact.dtype == torch.float64
    rounding = torch.finfo(torch.float32).eps * float(exact.norm())
    return distance(found, exact) <= factor * max(distance(other, exact), rounding)


def distance(one: Tensor, two: Tensor) -> float:
    """2-norm of the difference, in float64."""
    return float((one.detach().double() - two.detach().double()).norm())
