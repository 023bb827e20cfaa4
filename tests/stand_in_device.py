"""A device in the place of CUDA: tensors that are elsewhere, though the processor computes.

Numbers are the processor's bit for bit; what a real device refuses is refused: an operation on
tensors of two devices, ``numpy``, a view of the bytes. It takes a name for the whole process, so it
is for a process of its own.

    with stand_in():
        model.to(DEVICE)

Source: ``torch.utils.backend_registration``; the subclass is a wrapper as PyTorch documents them
("Extending torch with a Tensor wrapper type").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("standin")
DEVICE = torch.device("standin", 0)
_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}


class Elsewhere(Tensor):
    """A tensor on the device; ``inner`` has its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def stand_in() -> Iterator[None]:
    """Make tensors on the device where a call asks for it."""
    with _Calls(), _Operations():
        yield


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Calls that copy to or from a device below where modes of operations see it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.tensor and given.get("device") == DEVICE:
            return func(*args, **given | {"device": None}).to(DEVICE)
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        return func(*args, **given)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    seen: list[Tensor] = []

    def bare(value: Any) -> Any:
        if isinstance(value, Tensor):
            seen.append(value)
        return value.inner if isinstance(value, Elsewhere) else value

    plain, named = tree_map(bare, args), tree_map(bare, kwargs)
    here = [tensor for tensor in seen if isinstance(tensor, Elsewhere)]
    # a single number may come from the processor
    others = [tensor for tensor in seen if not isinstance(tensor, Elsewhere) and tensor.dim()]
    if here and others and func not in _MOVES:
        raise RuntimeError(f"{func}: tensors are on two devices")
    inside = bool(here)
    if kwargs.get("device") is not None:
        inside = torch.device(kwargs["device"]).type == DEVICE.type
        named["device"] = "cpu" if inside else kwargs["device"]
    elif func is _aten.copy_.default:
        inside = isinstance(args[0], Elsewhere)
    known = {id(tensor.inner): tensor for tensor in here}  # of operations in place

    def there(value: Any) -> Any:
        if not isinstance(value, Tensor) or not inside:
            return value
        return known.get(id(value)) if id(value) in known else Elsewhere(value)

    return tree_map(there, func(*plain, **named))
