"""Where a model computes, and in which precision; the rest of the code need not know.

    compute = Compute.open(admitted.device, job.train.precision)
    model = compute.place(apply_tuning(load_model(spec, labels, dtype=compute.dtype), ...))
    compute.task(task).loss(model, batch)       # moves the batch, and is what runs the model

Trust domain: client enclave (federated), server enclave (split), data owner.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from sealtune.errors import ConfigError, Problem
from sealtune.job.compute_rules import Device
from sealtune.job.sections import Precision
from sealtune.job.training_events import Computing
from sealtune.model.tasks import Outcome, Task
from sealtune.model.texts import Batch, Example, Texts

CPU = torch.device("cpu")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """A device and a precision; default: float32 on the processor.

    Attributes:
        device: of weights, activations and the optimizer's state.
        precision: ``fp32``; ``bf16``: frozen weights and activations; ``autocast``: products.
    """

    device: torch.device = CPU
    precision: Precision = "fp32"

    @classmethod
    def open(cls, device: Device, precision: Precision) -> Self:
        """That device of this machine.

        Raises:
            ConfigError: it has no such device.
        """
        if device == "cuda":
            check_cuda()
            # two runs of one seed are to be the same, as far as CUDA's kernels go
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        return cls(torch.device(device), precision)

    @property
    def dtype(self) -> torch.dtype:
        """Of frozen weights."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def said(self, *, stands_in: bool) -> Computing:
        """What to tell people of it.

        Args:
            stands_in: it takes the place of an attested GPU.
        """
        cuda = self.device.type == "cuda"
        return Computing(
            device=self.device.type,
            name=torch.cuda.get_device_name(self.device) if cuda else None,
            precision=self.precision,
            slow=None if cuda or self.precision == "fp32" else slow_bfloat16(),
            stands_in=stands_in,
        )

    def place(self, model: M) -> M:
        """``model`` on the device, in place."""
        return model.to(self.device)

    def forward(self) -> contextlib.AbstractContextManager[Any]:
        """For a forward pass; a backward pass takes the types of its forward pass."""
        if self.precision != "autocast":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def task(self, task: Task) -> Task:
        """``task`` for a model on the device."""
        return task if self == Compute() else _PlacedTask(task, self)


def check_cuda() -> None:
    """Raise ConfigError if this machine has no CUDA device."""
    if not torch.cuda.is_available():
        words = "the job computes on a CUDA device, and PyTorch finds none here"
        raise ConfigError(
            "this machine",
            [Problem("device", words)],
            hint='for a simulated run on the processor: device = "cpu" in the local file, or '
            "`sealtune run --device cpu`",
        )


def slow_bfloat16() -> str | None:
    """Why bfloat16 takes longer than float32 on this processor; None: it does not."""
    able = any(there for name, there in torch.cpu.get_capabilities().items() if "bf16" in name)
    return None if able else "this processor has no bfloat16 arithmetic (AMX or AVX512-BF16)"


class _PlacedTask(Task):
    """A task whose batches go to a device, and whose model runs in a precision."""

    def __init__(self, task: Task, compute: Compute) -> None:
        self._task, self._compute = task, compute
        self.name, self.labels, self.pad_id = task.name, task.labels, task.pad_id
        self.tokenizer, self.max_tokens = task.tokenizer, task.max_tokens

    def encode(self, examples: Sequence[Example]) -> Texts:
        return self._task.encode(examples)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._compute.forward():
            return self._task.loss(model, self._moved(batch))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._compute.forward():
            return self._task.losses(model, self._moved(batch))

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        with self._compute.forward():
            return self._task.outcome(model, self._moved(batch))

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._compute.forward():
            return self._task.scores(model, self._moved(batch))

    def next_tokens(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._compute.forward():
            return self._task.next_tokens(model, self._moved(batch))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        with self._compute.forward():
            return self._task.logits(model, self._moved(batch))

    def logit_parts(self, model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        parts = self._task.logit_parts(model, self._moved(batch))
        while True:
            with self._compute.forward():  # and not while somebody looks at the part
                part = next(parts, None)
            if part is None:
                return
            yield part

    def _moved(self, batch: Batch) -> Batch:
        return batch.to(self._compute.device)
