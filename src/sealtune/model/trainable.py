"""What is trained of a model, by name: tensors on their way out and back in, all of them or none.

Names are those of a PEFT adapter file.

Trust domain: client or server enclave; whoever received the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sealtune.errors import AdapterMismatchError
from sealtune.job.first_values import draw
from sealtune.job.plan import FirstValue
from sealtune.job.sections import TrainSpec

RateOf = Callable[[TrainSpec], float]
ADAPTER = "default"  # peft's name for the only adapter
_MAGNITUDE = ".lora_magnitude_vector"  # DoRA's lengths, which are a module by themselves


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by their names in a PEFT adapter file."""
    return {
        _state_name(name): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Their tensors under the same names, sorted; float32, not copied."""
    return {name: p.detach() for name, p in sorted(trainable_parameters(model).items())}


def learning_rate(parameter: nn.Parameter, train: TrainSpec) -> float:
    """Of a trainable parameter, before ``train.schedule``."""
    own: RateOf | None = getattr(parameter, "learning_rate", None)
    return own(train) if own else train.learning_rate


def set_learning_rate(parameter: nn.Parameter, own: RateOf) -> None:
    """Give a trainable parameter a learning rate of its own, for whoever makes an optimizer."""
    parameter.learning_rate = own  # type: ignore[attr-defined]


def own_writes(tensor: Tensor) -> int:
    """How often a tuner has written its part into a frozen tensor."""
    return int(getattr(tensor, "own_writes", 0))


def count_own_write(tensor: Tensor) -> None:
    """Say that a tuner has just written its part into a frozen tensor, once and in place."""
    tensor.own_writes = own_writes(tensor) + 1  # type: ignore[attr-defined]


def load_trainable_state(model: nn.Module, state: Mapping[str, Tensor], source: str = "") -> None:
    """Copy ``state`` into the model's trainable tensors; nothing is copied unless all of it fits.

    Raises:
        AdapterMismatchError: see ``copy_tensors``.
    """
    copy_tensors(trainable_state(model), state, source)


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


def read_tensors(data: bytes, source: str) -> dict[str, Tensor]:
    """What ``write_tensors`` wrote; ``source`` is named in messages.

    Raises:
        AdapterMismatchError: no safetensors file, or a part of one.
    """
    try:
        tensors: dict[str, Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterMismatchError(f"{source} is damaged or cut short") from error
    return tensors


def copy_tensors(
    own: Mapping[str, Tensor], written: Mapping[str, Tensor], source: str = ""
) -> None:
    """Copy ``written`` into a model's ``own`` tensors; nothing is copied unless all of it fits.

    Args:
        own: the model's tensors, changed in place.
        written: float32 tensors under the same names.
        source: where they are from, for messages.

    Raises:
        AdapterMismatchError: a name is missing or unknown, or a shape, type or value is wrong.
    """
    where = f"{source}: " if source else ""
    missing, unknown = sorted(own.keys() - written.keys()), sorted(written.keys() - own.keys())
    if missing or unknown:
        lacking = f"lacks {len(missing)} tensors, such as {missing[0]}" if missing else ""
        extra = f"has {len(unknown)} tensors too many, such as {unknown[0]}" if unknown else ""
        raise AdapterMismatchError(
            f"{where}the adapter {' and '.join(filter(None, (lacking, extra)))}",
            hint="it was made with other tuning settings or for another model",
        )
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


def draw_tensors(own: Mapping[str, Tensor], laws: Mapping[str, FirstValue], seed: int) -> None:
    """Fill a model's ``own`` tensors as ``laws`` say; on ``meta`` there is nothing to fill."""
    for name, law in laws.items():
        if not own[name].is_meta:
            own[name].copy_(torch.from_numpy(draw(law, seed, name, tuple(own[name].shape))))


def _state_name(name: str) -> str:
    """A parameter's name as PEFT writes it to a file: without the adapter's name."""
    name = name.replace(f".modules_to_save.{ADAPTER}.", ".")
    name = name.replace(f".{ADAPTER}.", ".")
    return name.removesuffix(".weight") if name.endswith(f"{_MAGNITUDE}.weight") else name
