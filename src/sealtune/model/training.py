"""Train an adapter for one round, and evaluate it: one piece of code for enclaves and baselines.

In a federated job each round starts a fresh AdamW, as in FedAvg with a stateless client; so the
adapter is all that a checkpoint has to hold.

Trust domain: client enclave (federated), server enclave (split), data owner (secure aggregation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sealtune.errors import ModelError
from sealtune.job.schedule import falling, rate_shares
from sealtune.job.sections import TrainSpec
from sealtune.model.batches import sorted_batches, step_batches
from sealtune.model.seeds import derive_seed
from sealtune.model.tasks import Task
from sealtune.model.texts import Dataset
from sealtune.model.trainable import (
    learning_rate,
    own_writes,
    trainable_parameters,
    trainable_state,
)

if TYPE_CHECKING:
    from sealtune.model.private_gradients import PrivateGradients


@dataclass(frozen=True)
class StepInfo:
    """One finished step: ``step`` counts from 1 up to ``of``; ``tokens`` includes padding."""

    step: int
    of: int
    loss: float
    tokens: int


OnStep = Callable[[StepInfo], None]


@dataclass(frozen=True)
class RoundResult:
    """What one site did in one round; ``tokens`` includes padding.

    ``trained_moved`` and ``frozen_unchanged`` say that every tensor was compared, with what came
    out.
    """

    train_loss: float
    losses: tuple[float, ...]
    steps: int
    tokens: int
    trained_moved: bool
    frozen_unchanged: bool


@dataclass(frozen=True)
class Evaluation:
    """Answers on a test set; ``loss`` is the mean cross-entropy in nats.

    ``predicted`` holds the class number of each example, in the order given; for ``causal-lm`` it
    is empty.
    """

    correct: int
    total: int
    loss: float
    predicted: tuple[int, ...] = ()


def local_round(
    model: nn.Module,
    task: Task,
    data: Dataset,
    spec: TrainSpec,
    *,
    seed: int,
    round: int,
    site: str,
    rounds: int | None = None,
    first: int | None = None,
    proximal: float = 0.0,
    decays: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    private: PrivateGradients | None = None,
    on_step: OnStep | None = None,
) -> RoundResult:
    """Run a round's AdamW steps on the trainable tensors, in place.

    Args:
        model: a PeftModel, frozen but for its adapter.
        task: what is learned.
        data: the site's training data.
        spec: batch size, steps, learning rates and their schedule.
        seed: the job's seed.
        round: number of the round, from 1.
        site: whose data these are; part of what the order of batches follows from.
        rounds: of the job, over which a schedule goes; a job of one needs not say so.
        first: number of the first step since the site began, from 0; default: every round before
            was as long as this one.
        proximal: FedProx (Li et al., arXiv 1812.06127): weight mu of ``mu / 2 |w - w_0|^2`` in the
            loss of every step, w_0 being the trainable tensors as they are at the start; the losses
            returned are without it.
        decays: the learning rate falls from step to step, to nothing after the last, whatever the
            job's schedule: what ends here has no average after it that would smooth it.
        optimizer: goes on with this one; default: a fresh one (``make_optimizer``).
        private: draws, clips and adds noise by itself, from nothing of ``seed``; default: batches
            as they are.
        on_step: called after each step.

    Raises:
        ValueError: the job's schedule ends before this round.
        ModelError: the loss is not finite, a trainable tensor did not move, or a frozen one did.
    """
    steps = spec.steps(len(data))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer or make_optimizer(model, spec)
    if private is None:
        torch.manual_seed(derive_seed("dropout", seed, site, round))
    else:
        private.begin()
    first = (round - 1) * steps if first is None else first
    batches = step_batches(data.lengths, spec.batch_size, first, steps, seed, site)
    gradients = private or _Batches(model, task, data, iter(batches))
    shares = falling(steps) if decays else rate_shares(spec, steps, round, rounds or 1)
    rates = [group["lr"] for group in optimizer.param_groups]
    losses: list[float] = []
    tokens = 0
    model.train()
    with _only_the_adapter_moves(model) as compared:
        for i in range(steps):
            optimizer.zero_grad(set_to_none=True)
            value, seen = gradients.fill()
            if not math.isfinite(value):
                raise ModelError(f"the loss is {value} at step {i + 1}", hint=_DIVERGED)
            if proximal:
                _pull_back(model, compared.before, proximal)
            _check_gradients(parameters, i + 1)
            _set_rates(optimizer, rates, shares[i])
            optimizer.step()
            losses.append(value)
            tokens += seen
            if on_step:
                on_step(StepInfo(i + 1, steps, value, seen))
    _set_rates(optimizer, rates, 1.0)  # for the round after this one
    optimizer.zero_grad(set_to_none=True)
    return RoundResult(
        sum(losses) / len(losses),
        tuple(losses),
        steps,
        tokens,
        compared.trained_moved,
        compared.frozen_unchanged,
    )


@dataclass(frozen=True)
class _Batches:
    """Gradients of the mean loss of one batch after another."""

    model: nn.Module
    task: Task
    data: Dataset
    batches: Iterator[list[int]]

    def fill(self) -> tuple[float, int]:
        """One step's gradients; returns the batch's loss and its tokens."""
        batch = self.data.batch(next(self.batches))
        loss = self.task.loss(self.model, batch)
        value = float(loss.detach())
        if math.isfinite(value):  # otherwise a masked layer would complain first, of its gradient
            loss.backward()  # type: ignore[no-untyped-call]
        return value, batch.tokens


def make_optimizer(model: nn.Module, spec: TrainSpec) -> torch.optim.AdamW:
    """AdamW over the trainable tensors, in the order of ``trainable_state``, each at its rate."""
    rates: dict[float, list[nn.Parameter]] = {}
    for _, parameter in sorted(trainable_parameters(model).items()):
        rates.setdefault(learning_rate(parameter, spec), []).append(parameter)
    groups = [{"params": parameters, "lr": rate} for rate, parameters in rates.items()]
    return torch.optim.AdamW(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay)


def _set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[float], share: float) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * share


def evaluate(
    model: nn.Module,
    task: Task,
    data: Dataset,
    *,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Answer every example; ``on_batch`` is called with the number of tokens before each batch."""
    correct = total = 0
    loss_sum = 0.0
    predicted = [0] * len(data)
    model.eval()
    with torch.no_grad():
        for chosen in sorted_batches(data.lengths, batch_size):
            batch = data.batch(chosen)
            if on_batch:
                on_batch(batch.tokens)
            outcome = task.outcome(model, batch)
            correct += outcome.correct
            total += outcome.total
            loss_sum += outcome.loss_sum
            for j, answer in zip(chosen, outcome.predicted, strict=False):
                predicted[j] = answer
    if total and not math.isfinite(loss_sum):
        raise ModelError("the loss of the evaluation is not finite", hint=_DIVERGED)
    answers = tuple(predicted) if task.labels and total == len(predicted) else ()
    return Evaluation(correct, total, loss_sum / max(total, 1), answers)


_DIVERGED = "the training diverged: lower train.learning_rate, or look for damaged data"


def _pull_back(model: nn.Module, start: Mapping[str, Tensor], proximal: float) -> None:
    """Add the gradient of ``proximal / 2 |w - start|^2`` to that of each trainable tensor."""
    for name, parameter in trainable_parameters(model).items():
        away = parameter.detach() - start[name]
        if parameter.grad is not None:
            parameter.grad.add_(away, alpha=proximal)


def _check_gradients(parameters: Sequence[Tensor], step: int) -> None:
    """Stop before a step would write NaN into the weights."""
    gradients = [one.grad for one in parameters if one.grad is not None]
    # the largest magnitude of all: one answer to wait for, where a device computes
    if not torch.isfinite(get_total_norm(gradients, math.inf)):
        raise ModelError(f"a gradient is not finite at step {step}", hint=_DIVERGED)


@dataclass
class _Compared:
    before: Mapping[str, Tensor]
    trained_moved: bool = False
    frozen_unchanged: bool = False


@contextmanager
def _only_the_adapter_moves(model: nn.Module) -> Iterator[_Compared]:
    """Check after the block that every trainable tensor moved and no frozen one was written to.

    What a tuner writes into its own slice of a frozen tensor is counted (``own_writes``), and all
    else is a fault.

    Training that "succeeds" and leaves a useless adapter is the failure that users notice last.
    """
    before = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    frozen = {  # embedding and head may be buffers
        name: (tensor, _foreign_writes(tensor), tensor.data_ptr())
        for name, tensor in model.state_dict(keep_vars=True).items()
        if not tensor.requires_grad
    }
    compared = _Compared(before)
    yield compared
    for name, (tensor, writes, address) in frozen.items():
        if (
            _foreign_writes(tensor) != writes
            or tensor.data_ptr() != address
            or tensor.requires_grad
        ):
            raise ModelError(f"the frozen tensor {name} was changed by training")
    compared.frozen_unchanged = True
    after = trainable_parameters(model)
    stuck = [n for n, p in after.items() if torch.equal(p, before[n]) and not _waits(p)]
    if stuck or not after:
        raise ModelError(
            f"{len(stuck)} of {len(after)} trainable tensors did not move, such as "
            f"{stuck[0] if stuck else '(none at all)'}",
            hint="raise train.learning_rate, or check that these layers take part in the model",
        )
    compared.trained_moved = True


def _foreign_writes(tensor: Tensor) -> int:
    """Changes in place that no tuner has counted."""
    return tensor._version - own_writes(tensor)


def _waits(parameter: nn.Parameter) -> bool:
    """Whether a tensor is one factor of a product whose other factor is still zero.

    So is LoRA's A in the first step: it takes part, is not zero itself, and has a gradient of zero.
    """
    gradient = parameter.grad
    return gradient is not None and not gradient.any() and bool(parameter.detach().any())
