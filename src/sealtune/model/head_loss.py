"""Cross-entropy over a large vocabulary without ever holding the logits of all tokens.

The rows that count go through the output matrix a few at a time. Each part's loss and the gradient
of its hidden states are made at once, in the memory of its logits; the matrix is frozen and gets
none. Same numbers as ``functional.cross_entropy`` of all logits.

    rows = head_rows(base_model(model), model, batch)    # None: the model has to do it by itself
    rows.loss().backward()

Trust domain: client enclave (federated); data owner and server enclave (split).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn

from sealtune.model.texts import Batch

# what families do to their logits after the output matrix, by the keys of their configurations
_PROCESSED = ("final_logit_softcapping", "logits_scaling", "logit_scale", "logits_soft_cap")
_PROCESSED_LATER: WeakSet[nn.Module] = WeakSet()
_LOGITS = 1 << 21  # of one part: 8 MiB of float32


@dataclass(frozen=True)
class Rows:
    """Hidden states that an output matrix is about to get, and what it should make of them.

    Attributes:
        head: the output matrix, frozen: anything that maps [m, D] to logits [m, V].
        hidden: float [M, D].
        targets: int64 [M], the right token of each row.
    """

    head: nn.Module
    hidden: Tensor
    targets: Tensor

    def loss(self) -> Tensor:
        """Mean cross-entropy in nats, float32, with a gradient for ``hidden``."""
        return cast(Tensor, _MeanLoss.apply(self.hidden, self))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def answers(self) -> tuple[int, float]:
        """How many rows have their largest logit at their target, and the summed cross-entropy."""
        correct, total = 0, 0.0
        for hidden, targets in self._parts(self.hidden):
            logits = self.head(hidden).float()
            correct += int((logits.argmax(dim=1) == targets).sum())
            total += float(_to_gradient(logits, targets).sum())
        return correct, total

    def loss_and_gradient(self, hidden: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Summed cross-entropy, and its gradient [M, D] if that is wanted."""
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        for rows, targets in self._parts(hidden):
            with torch.set_grad_enabled(gradient):
                leaf = rows.detach().requires_grad_(gradient)
                logits = self.head(leaf)
            grad = logits.detach().float()  # the logits' own memory, which nobody needs again
            losses.append(_to_gradient(grad, targets).sum())
            if gradient:
                gradients += torch.autograd.grad(logits, leaf, grad.to(logits.dtype))
        return torch.stack(losses).sum(), torch.cat(gradients) if gradient else None

    def _parts(self, hidden: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        size = max(1, _LOGITS // int(cast(Any, self.head).out_features))
        for start in range(0, len(hidden), size):
            yield hidden[start : start + size], self.targets[start : start + size]


def head_rows(base: Any, model: nn.Module, batch: Batch) -> Rows | None:
    """Run ``model`` up to its output matrix, with the rows of ``batch`` that predict a token.

    The model's own forward pass goes on with one single row. What it makes of that row shows
    whether its logits are what the output matrix gives, and nothing else.

    Args:
        base: the Hugging Face model inside ``model``.
        model: the model or what is around it.
        batch: texts of which one at least has two tokens.

    Returns:
        None if the model scales or caps its logits, or tunes its output matrix.

    Raises:
        DataError: no text has a second token.
    """
    inside, targets = batch.predicted
    found = before_head(base, model, batch)
    return None if found is None else Rows(found[0], found[1][:, :-1][inside], targets)


def logit_parts(base: Any, model: nn.Module, batch: Batch) -> Iterator[Tensor] | None:
    """Logits float32 [m, V] of all tokens inside texts, as many rows at a time as fit."""
    found = before_head(base, model, batch)
    if found is None:
        return None
    head, hidden = found[0], found[1][batch.attention_mask.bool()]
    size = max(1, _LOGITS // 4 // int(cast(Any, head).out_features))  # two models' at once
    return (head(hidden[i : i + size]).float() for i in range(0, len(hidden), size))


def before_head(base: Any, model: nn.Module, batch: Batch) -> tuple[nn.Module, Tensor] | None:
    """The output matrix and all that would go into it, [B, T, D]; see ``head_rows``."""
    head = base.get_output_embeddings()
    known = any(getattr(base.config, key, None) for key in _PROCESSED)
    if known or head in _PROCESSED_LATER or not _is_frozen_matrix(head):
        return None
    given: list[Tensor] = []
    made: list[Tensor] = []

    def one_row(_head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        given.append(args[0])
        return (args[0][:1, :1].detach(),)

    def keep(_head: nn.Module, _args: object, logits: Tensor) -> None:
        made.append(logits.clone())

    state = torch.get_rng_state()
    with head.register_forward_pre_hook(one_row), head.register_forward_hook(keep):
        logits = model(**batch.inputs()).logits
    shape = batch.input_ids.shape
    if len(given) == 1 and given[0].shape[:2] == shape and torch.equal(made[0], logits):
        return head, given[0]
    _PROCESSED_LATER.add(head)  # a family that is not known to, found once
    torch.set_rng_state(state)  # as if there had been no such pass
    return None


def _is_frozen_matrix(head: Any) -> bool:
    frozen = head is not None and not any(p.requires_grad for p in head.parameters())
    return frozen and hasattr(head, "out_features")


class _MeanLoss(torch.autograd.Function):
    """The loss of ``Rows``; its gradient is made with it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, rows: Rows) -> Tensor:
        total, gradient = rows.loss_and_gradient(hidden, gradient=ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        ctx.count = len(hidden)
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grads[0] / ctx.count).to(gradient.dtype), None


def _to_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row, [m]; ``logits`` [m, V] become its gradient, in place."""
    at = targets[:, None]
    logits -= logits.amax(dim=1, keepdim=True)
    right = logits.gather(1, at)[:, 0]
    total = logits.exp_().sum(dim=1, keepdim=True)
    logits /= total
    logits.scatter_add_(1, at, torch.full_like(total, -1.0))
    return total[:, 0].log() - right
