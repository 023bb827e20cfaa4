"""Named tensors of an adapter on their way out of a model and back in: all of them fit, or none.

Trust domain: client or server enclave; whoever received the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from sealtune.errors import AdapterMismatchError


def write_tensors(state: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file that holds ``state``.

    Raises:
        AdapterMismatchError: a value is not finite.
    """
    plain = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    bad = [name for name, tensor in plain.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise AdapterMismatchError(f"{bad[0]} holds values that are not finite; nothing written")
    data: bytes = save(plain, metadata={"format": "pt"})
    return data


def copy_tensors(
    own: Mapping[str, Tensor], written: Mapping[str, Tensor], source: str = ""
) -> None:
    """Copy ``written`` into a model's ``own`` tensors; nothing is copied unless all of it fits.

    Args:
        own: the model's tensors, changed in place.
        written: float32 tensors under the same names.
        source: where they are from, for messages.

    Raises:
        AdapterMismatchError: a shape, type or value is wrong.
    """
    where = f"{source}: " if source else ""
    for name, tensor in own.items():
        new = written[name]
        if new.shape != tensor.shape or new.dtype != torch.float32:
            raise AdapterMismatchError(
                f"{where}{name} is {tuple(new.shape)} {new.dtype}, not {tuple(tensor.shape)} "
                "float32"
            )
        if not torch.isfinite(new).all():
            raise AdapterMismatchError(f"{where}{name} holds values that are not finite")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(written[name])
