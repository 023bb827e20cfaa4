"""DP-SGD's gradient in the place of a batch's (Abadi et al., arXiv 1607.00133).

In each step every row is drawn by itself from secret randomness, each row's gradient is clipped,
and their sum gets noise and is divided by the number of rows that a step has on average, which is
public. How many were drawn is not: a step without rows is one of noise alone.

Dropout is drawn from secret randomness, too: from a public seed, the masks of all rows behind it
would tell whether a row was in the batch.

Trust domain: client enclave.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import torch
from torch import nn

from sealtune.job.dp_terms import sampling_rate
from sealtune.job.sections import TrainSpec
from sealtune.model.batches import sorted_batches
from sealtune.model.example_gradients import ExampleGradients
from sealtune.model.tasks import Task
from sealtune.model.texts import Dataset
from sealtune.privacy.noise import NoiseStream


@dataclass(frozen=True)
class Noise:
    """What a row's presence is hidden by.

    Attributes:
        clip: L2 norm of a row's gradient at most.
        multiplier: deviation of the noise over ``clip``.
    """

    clip: float
    multiplier: float


class PrivateGradients:
    """Fills the gradients of a model's trainable parameters, step by step.

    Args:
        model: a PeftModel, frozen but for its adapter.
        task: whose loss is one of each example.
        data: the site's training rows.
        spec: its batch size is the number of rows that a step has on average.
        noise: of the job.

    Raises:
        UnsupportedModelError: see ``trainable_layers``.
    """

    def __init__(
        self, model: nn.Module, task: Task, data: Dataset, spec: TrainSpec, noise: Noise
    ) -> None:
        self._model, self._task, self._data, self._noise = model, task, data, noise
        self._watched = ExampleGradients(model)
        self._stream = NoiseStream()
        self._at_once = spec.batch_size
        self._rate = sampling_rate(spec, len(data))
        self._rows = self._rate * len(data)
        self._loss = 0.0

    def begin(self) -> None:
        """Before the steps of a round."""
        torch.manual_seed(secrets.randbits(63))

    def fill(self) -> tuple[float, int]:
        """One step's gradients; returns the mean loss of the rows drawn (of none: that of the step
        before), and their tokens.

        Raises:
            ModelError: a row's gradient is not finite.
        """
        drawn = self._stream.chosen(len(self._data), self._rate)
        trained = [p for p in self._model.parameters() if p.requires_grad]
        sums = {p: torch.zeros_like(p) for p in trained}
        loss, tokens = 0.0, 0
        lengths = [self._data.lengths[row] for row in drawn]
        with self._watched:
            for part in sorted_batches(lengths, self._at_once):
                batch = self._data.batch([drawn[i] for i in part])
                losses = self._task.losses(self._model, batch)
                losses.sum().backward()  # type: ignore[no-untyped-call]
                for parameter, total in self._watched.clipped_sum(self._noise.clip).items():
                    sums[parameter] += total
                loss += float(losses.detach().sum())
                tokens += batch.tokens
        deviation = self._noise.multiplier * self._noise.clip
        for parameter, total in sums.items():
            noisy = self._stream.add_noise(total.cpu().numpy(), deviation) / self._rows
            parameter.grad = torch.from_numpy(noisy).to(parameter)
        if drawn:
            self._loss = loss / len(drawn)
        return self._loss, tokens
