"""What the estimates need to know of a model: counted on the ``meta`` device, without weights.

One forward pass of the tuned model is watched: which frozen linear layers share an input, which of
their inputs carry a gradient, and what autograd keeps for the backward pass.

Trust domain: operator; public structure only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from sealtune.job.spec import Job, ModelSpec
from sealtune.model.files import model_files
from sealtune.model.load import load_config, load_model
from sealtune.model.structure import find_blocks
from sealtune.model.trainable import trainable_state
from sealtune.offload.session import canonical_name
from sealtune.plan.masked import Call, block_index, by_source, forward_on_meta, is_frozen_linear
from sealtune.tuning.apply import apply_tuning

_SHORT, _LONG = 8, 16  # tokens of the two watched passes
_OUTSIDE = -1  # number of "no block"


@dataclass(frozen=True)
class Group:
    """Frozen linear layers that share one input: ``y [T, N] = x [T, K] W^T``.

    Attributes:
        inner: K.
        outer: N, of all members together.
        backward: whether a gradient flows to the input.
    """

    inner: int
    outer: int
    backward: bool


@dataclass(frozen=True)
class Block:
    """One decoder block.

    Attributes:
        parameters: frozen ones.
        groups: its frozen linear layers.
        tuned: trainable parameters in it; all are matrices that a token's values pass through.
        saved: bytes that autograd keeps for a token, attention scores left out.
    """

    parameters: int
    groups: tuple[Group, ...]
    tuned: int
    saved: float

    @property
    def linear(self) -> int:
        """Parameters in frozen linear layers."""
        return sum(g.inner * g.outer for g in self.groups)


@dataclass(frozen=True)
class Shape:
    """A tuned model.

    Attributes:
        architecture: class name.
        blocks: in their order, as they are when every block is tuned that the job names.
        first_tuned: number of the first block through which a gradient flows.
        width: D, values of a token between blocks.
        attention: heads x head dimension.
        vocabulary: number of token ids, V.
        embedding: parameters.
        rest: parameters outside blocks, embedding and head (the last norm, positions).
        head: parameters of the head; those of a classification head are trained.
        head_trained: whether it is.
        head_per_token: whether the head answers every token and its loss keeps the answers.
        tied: whether the head is the embedding again.
        file_bytes: of one parameter in the weight files.
        saved_outside: bytes that autograd keeps for a token outside the blocks.
        prefix_fits: whether leading blocks could run apart, plain, for ``protect = "adapter"``.
    """

    architecture: str
    blocks: tuple[Block, ...]
    first_tuned: int
    width: int
    attention: int
    vocabulary: int
    embedding: int
    rest: int
    head: int
    head_trained: bool
    head_per_token: bool
    tied: bool
    file_bytes: int
    saved_outside: float
    prefix_fits: bool

    def parameters(self, first: int = 0, last: int | None = None) -> int:
        """Frozen parameters of some blocks."""
        return sum(block.parameters for block in self.blocks[first:last])

    def trainable(self, first: int = 0) -> int:
        """Trainable parameters of the blocks from ``first`` on, and of the head."""
        return sum(b.tuned for b in self.blocks[first:]) + self.head * self.head_trained

    @property
    def inner(self) -> int:
        """Size of a typical wide layer beside ``width``: mean width of what linear layers make."""
        groups = [group for block in self.blocks for group in block.groups]
        return round(sum(group.outer for group in groups) / len(groups))

    @property
    def whole(self) -> int:
        """Parameters of the whole model as it lies in memory, head included."""
        head = 0 if self.tied else self.head
        return self.embedding + self.parameters() + self.rest + head

    def bottom(self, cut: int) -> int:
        """Parameters at a site of a split job: embedding and blocks below the cut."""
        return self.embedding + self.parameters(0, cut) + self.rest

    def top(self, cut: int) -> int:
        """Parameters at the server of a split job: blocks from the cut on, and the head.

        A tied head is loaded once more there: the embedding stays at the sites.
        """
        return self.parameters(cut) + self.rest + self.head


def structure_only(spec: ModelSpec) -> ModelSpec:
    """``spec`` with a folder as its path; of a hub id only configuration and tokenizer are fetched.

    Raises:
        ModelError: there is no such folder, or the hub cannot be reached.
    """
    return spec.model_copy(update={"path": str(model_files(spec, weights=False).folder)})


def read_shape(job: Job, num_labels: int | None) -> Shape:
    """Count ``job``'s model.

    Args:
        job: its model is a folder, see ``structure_only``.
        num_labels: number of classes, for a classification head; None for other tasks.

    Raises:
        UnsupportedModelError, TargetModulesError: the model or the tuning cannot be planned.
    """
    model = load_model(job.model, num_labels, meta=True)
    blocks_name, blocks = find_blocks(model)
    embedding = model.get_input_embeddings().weight
    head = model.score if job.model.task == "classification" else model.get_output_embeddings()
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    total = sum(p.numel() for p in model.parameters())  # a tied head counts once
    tied = head.weight is embedding
    outside = total - sum(sizes) - embedding.numel() - (0 if tied else _numel(head))
    config, causal = model.config, job.model.task == "causal-lm"
    tuned = apply_tuning(model, job.tuning, job.model.task, job.job.seed).train()
    watch = _Watch(tuned, blocks_name, blocks, causal=causal)
    trained = _trained(tuned, blocks_name, len(blocks))
    found = tuple(
        Block(sizes[i], watch.groups(i), trained[i], watch.saved(i)) for i in range(len(blocks))
    )
    heads = int(config.num_attention_heads)
    return Shape(
        architecture=type(model).__name__,
        blocks=found,
        first_tuned=watch.first_tuned,
        width=int(embedding.shape[1]),
        attention=heads * int(getattr(config, "head_dim", None) or embedding.shape[1] // heads),
        vocabulary=int(embedding.shape[0]),
        embedding=embedding.numel(),
        rest=outside,
        head=_numel(head),
        head_trained=job.model.task == "classification",
        head_per_token=causal,
        tied=tied,
        file_bytes=2 if str(load_config(job.model).dtype).endswith("float16") else 4,
        saved_outside=0.0 if causal else watch.saved(_OUTSIDE),
        prefix_fits=watch.prefix_fits,
    )


def _numel(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _trained(model: nn.Module, blocks_name: str, blocks: int) -> list[int]:
    """Trainable parameters of each block."""
    counts = [0] * blocks
    for name, tensor in trainable_state(model).items():
        number = block_index(canonical_name(name), blocks_name)
        if number >= 0:
            counts[number] += prod(tensor.shape)
    return counts


@dataclass
class _Seen:
    """What one forward pass showed."""

    calls: dict[int, list[Call]] = field(default_factory=dict)
    saved: dict[int, float] = field(default_factory=dict)
    tainted: list[int] = field(default_factory=list)
    embedded: Tensor | None = None
    entered: Tensor | None = None


class _Watch:
    """Two forward passes of different length, with eyes on every block."""

    def __init__(
        self, model: Any, blocks_name: str, blocks: nn.ModuleList, *, causal: bool
    ) -> None:
        self._blocks_name = blocks_name
        self._blocks = blocks
        self._short = self._run(model, _SHORT, causal)
        self._long = self._run(model, _LONG, causal)

    @property
    def first_tuned(self) -> int:
        return min(self._short.tainted, default=len(self._blocks))

    @property
    def prefix_fits(self) -> bool:
        seen = self._short
        return seen.embedded is not None and seen.embedded is seen.entered

    def groups(self, block: int) -> tuple[Group, ...]:
        """Consecutive calls with the very same input, as the slice plan groups them."""
        return tuple(
            Group(
                one[0].shape[0],
                sum(call.shape[1] for call in one),
                one[0].source.requires_grad,
            )
            for one in by_source(self._short.calls.get(block, []))
        )

    def saved(self, block: int) -> float:
        """Bytes for a token: the linear part of ``a T + b T^2``.

        The square part are attention scores, which the fused attention of a real run never keeps.
        """
        short, long = self._short.saved.get(block, 0.0), self._long.saved.get(block, 0.0)
        square = (long / _LONG - short / _SHORT) / (_LONG - _SHORT)
        return short / _SHORT - square * _SHORT

    def _run(self, model: Any, tokens: int, causal: bool) -> _Seen:
        seen, kept = _Seen(), {}
        current = _OUTSIDE
        frozen = {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in frozen and storage._cdata not in kept:
                kept[storage._cdata] = storage  # held, so that no address comes twice
                seen.saved[current] = seen.saved.get(current, 0.0) + storage.nbytes()
            return tensor

        def entering(number: int) -> Any:
            def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
                nonlocal current
                current = number
                if number == 0:
                    seen.entered = args[0] if args else kwargs["hidden_states"]

            return hook

        def leaving(number: int) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                nonlocal current
                current = _OUTSIDE
                hidden = output[0] if isinstance(output, tuple) else output
                if hidden.requires_grad:
                    seen.tainted.append(number)

            return hook

        def embedded(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.embedded = output

        def called(module: nn.Module, args: Any) -> None:
            kind = type(module).__name__
            seen.calls.setdefault(current, []).append(Call(kind, module, args[0]))

        handles = [model.get_input_embeddings().register_forward_hook(embedded)]
        for number, block in enumerate(self._blocks):
            handles.append(block.register_forward_pre_hook(entering(number), with_kwargs=True))
            handles.append(block.register_forward_hook(leaving(number)))
            for module in block.modules():
                if is_frozen_linear(module):
                    handles.append(module.register_forward_pre_hook(called))
        try:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                run_on_meta(model, 1, tokens, causal=causal)
        finally:
            for handle in handles:
                handle.remove()
        return seen


def run_on_meta(model: Any, rows: int, tokens: int, *, causal: bool = False) -> Tensor:
    """A forward pass and a loss on meta tensors."""
    logits: Tensor = forward_on_meta(model, rows, tokens).logits
    rows_of = logits.reshape(-1, logits.shape[-1]).float()
    targets = torch.zeros(rows_of.shape[0], dtype=torch.long, device="meta")
    return nn.functional.cross_entropy(rows_of, targets)
