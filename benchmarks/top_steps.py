"""Seconds and memory of one training step of a split model's top, arm against arm, in turn.

The arms train blocks 24 to 29 of SmolLM2-135M and a head on one random batch of 8 x 32 tokens.
Each round takes one step of every arm; ratios are of steps of the same round, in seconds of the
processor, which a machine that is not quiet spoils less than the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sealtune.job.sections import HEAD, TrainSpec, TuningSpec
from sealtune.job.spec import ModelSpec
from sealtune.model.cut import CutEntry
from sealtune.model.load import load_tokenizer
from sealtune.model.partial import load_part
from sealtune.model.samples import CutBatch
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import Classification
from sealtune.model.trainable import trainable_parameters
from sealtune.model.training import make_optimizer
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.head import fresh_head
from sealtune.tuning.spf.layer import SparseDelta, train_delta, write_delta

CUT = 24  # of 30 blocks
ROWS, TOKENS, LABELS = 8, 32, 21
FULL = "full"  # q, k, v and o whole
TWO_PRODUCTS = "two products"  # SPF as an addition to each layer's output
_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj")


class OneStep:
    """A model that is trained step by step.

    Args:
        model: folder of the backbone.
        tuning: ``[tuning]``; None: the attention's four matrices whole.
        two_products: see ``in_two_products``.
    """

    def __init__(
        self, model: str, tuning: Mapping[str, Any] | None, *, two_products: bool = False
    ) -> None:
        spec = ModelSpec(path=model, task="classification")
        source = torch.Generator().manual_seed(3)
        top = deepcopy(_top(model))
        self._batch = CutBatch(
            torch.ones(ROWS, TOKENS, dtype=torch.int64),
            torch.full((ROWS,), TOKENS),
            torch.randint(LABELS, (ROWS,), generator=source),
            torch.randn(ROWS, TOKENS, int(top.config.hidden_size), generator=source),
            CutEntry(top, CUT),
        )
        names = [str(number) for number in range(LABELS)]
        self._task = Classification(load_tokenizer(spec), TOKENS, "{text}", names)
        if tuning is None:
            self.model = _whole(top)
        else:
            settings = TuningSpec.model_validate(tuning)
            self.model = apply_tuning(top, settings, "classification", 1, first_block=CUT)
        if two_products:
            in_two_products(self.model)
        self.model.train()
        self._optimizer = make_optimizer(self.model, TrainSpec())

    def __call__(self) -> float:
        """Forward, loss, backward, AdamW; returns seconds of the processor."""
        start = time.process_time()
        self._optimizer.zero_grad(set_to_none=True)
        self._task.loss(self.model, self._batch).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return time.process_time() - start

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, without the head."""
        named = trainable_parameters(self.model).items()
        return [p for name, p in named if f".{HEAD}." not in f".{name}"]

    @property
    def state_bytes(self) -> int:
        """Bytes of gradients and optimizer state that are allocated now, head apart."""
        total = 0
        for parameter in self.parameters:
            kept: list[Tensor] = list(self._optimizer.state[parameter].values())
            total += sum(t.nbytes for t in (*kept, parameter.grad) if t is not None)
        return total


def compare(
    model: str, arms: Mapping[str, Mapping[str, Any] | None], rounds: int, to: str
) -> dict[str, Any]:
    """Name of an arm -> its ``step`` and ``memory`` over those of arm ``to``, and ``trainable``.

    ``step`` is the median over rounds and its quartiles; a round before them warms up. An arm that
    is called ``TWO_PRODUCTS`` is so computed.
    """
    steps = {n: OneStep(model, t, two_products=n == TWO_PRODUCTS) for n, t in arms.items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            used = steps[name]()
            if number:
                seconds[name].append(used)
    return {
        name: {
            "trainable": sum(p.numel() for p in step.parameters),
            "step": _ratio(seconds[name], seconds[to]),
            "memory": round(step.state_bytes / steps[to].state_bytes, 4),
        }
        for name, step in steps.items()
    }


def in_two_products(model: nn.Module) -> None:
    """Compute SPF as a product of its own beside the frozen one, which is not written to."""
    for layer in list(model.modules()):
        if isinstance(getattr(layer, "spf", None), SparseDelta):
            for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
                for key, hook in list(hooks.items()):
                    if hook in (write_delta, train_delta):
                        del hooks[key]
            layer.register_forward_hook(_add_product)


def _add_product(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    spf: SparseDelta = module.spf  # type: ignore[assignment]
    if spf.axis == 0:
        return output.index_add(-1, spf.index, functional.linear(inputs[0], spf.delta))
    return output + functional.linear(inputs[0].index_select(-1, spf.index), spf.delta)


@cache
def _top(model: str) -> Any:
    return load_part(ModelSpec(path=model, task="classification"), LABELS, CUT, "top")


def _whole(top: Any) -> Any:
    fresh_head(top, 1)
    _, blocks = find_blocks(top)
    for block in blocks[CUT:]:
        for name in _MATRICES:
            getattr(block.self_attn, name).weight.requires_grad_(True)
    return top


def _ratio(values: Sequence[float], to: Sequence[float]) -> list[float]:
    """Median of the rounds' ratios, lower quartile, upper quartile."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(values, to, strict=True)], n=4, method="inclusive"
    )
    return [round(x, 3) for x in (middle, low, high)]
