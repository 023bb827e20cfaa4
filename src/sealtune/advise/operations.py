"""What each block of a model does, counted on the ``meta`` device.

A block of each kind runs forward and backward on its own, once passing a gradient on to the block
below, once not. Torch's counter counts the operations of its matrix products; which frozen linear
layers share an input, which inputs carry a gradient and what autograd keeps is watched.

Trust domain: operator; public structure only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode
from transformers import Cache, DynamicCache

from sealtune.plan.trace import Call, by_source, forward_on_meta, is_frozen_linear

_SHORT, _LONG = 8, 16  # tokens of the two rows that are counted
_Kind = tuple[Any, ...]
_Called = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]  # a block and its arguments


@dataclass(frozen=True)
class Count:
    """What grows with the length L of a row: ``fixed + each * L`` for one of its tokens."""

    fixed: float = 0.0
    each: float = 0.0

    @classmethod
    def of(cls, short: float, long: float) -> Count:
        """From the sums over a row of 8 and a row of 16 tokens."""
        each = (long / _LONG - short / _SHORT) / (_LONG - _SHORT)
        return cls(short / _SHORT - each * _SHORT, each)


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
    """One decoder block, or all that is outside of blocks.

    Attributes:
        groups: its frozen linear layers.
        forward: floating-point operations for a token.
        backward: as many, of attention that keeps its scores.
        saved: bytes that autograd keeps for a token, attention scores left out.
        virtual: as many for a row: keys and values of virtual tokens.
    """

    groups: tuple[Group, ...]
    forward: Count
    backward: Count
    saved: float
    virtual: float = 0.0


@dataclass
class _Run:
    """What was counted and watched of some work and its backward pass."""

    forward: int = 0
    backward: int = 0
    saved: int = 0
    calls: list[Call] = field(default_factory=list)


def count_blocks(
    model: Any, blocks: nn.ModuleList
) -> tuple[tuple[Block, ...], tuple[Block, ...], Block]:
    """Count a model on ``meta``.

    Returns:
        all blocks as they pass a gradient on; all blocks as none is wanted below; the rest.
    """
    (inputs, short), (longer, long) = (_outside(model, blocks, n) for n in (_SHORT, _LONG))
    variants = []
    for passing_on in (True, False):
        kinds = {kind: _count_alone(inputs[kind], longer[kind], passing_on) for kind in inputs}
        variants.append(tuple(kinds[_kind(block)] for block in blocks))
    return variants[0], variants[1], _block(short, long)


def run_on_meta(model: Any, rows: int, tokens: int) -> Tensor:
    """A forward pass and a loss on meta tensors."""
    logits: Tensor = forward_on_meta(model, rows, tokens).logits
    rows_of = logits.reshape(-1, logits.shape[-1]).float()
    targets = torch.zeros(rows_of.shape[0], dtype=torch.long, device="meta")
    return nn.functional.cross_entropy(rows_of, targets)


def _kind(block: nn.Module) -> _Kind:
    """Blocks with the same parameters do the same work."""
    return tuple((name, p.shape, p.requires_grad) for name, p in block.named_parameters())


def _count_alone(short: _Called, longer: _Called, passing_on: bool) -> Block:
    """A block from what it was called with for a short row and a longer one."""
    runs = [_alone(called, passing_on) for called in (short, longer)]
    counted = _block(*runs)
    if not _caches(short):
        return counted
    bare = [_alone(_without_cache(called), passing_on=True) for called in (short, longer)]
    # beside what virtual tokens cost a row, they lengthen each token's scores, which are not kept
    more, later = (run.saved - without.saved for run, without in zip(runs, bare, strict=True))
    virtual = max(0.0, (more * _LONG - later * _SHORT) / (_LONG - _SHORT))
    return replace(counted, saved=_block(*bare).saved, virtual=virtual)


def _block(short: _Run, long: _Run) -> Block:
    return Block(
        groups=tuple(
            Group(calls[0].shape[0], sum(c.shape[1] for c in calls), calls[0].source.requires_grad)
            for calls in by_source(short.calls)
        ),
        forward=Count.of(short.forward, long.forward),
        backward=Count.of(short.backward, long.backward),
        # what grows with L are attention scores, which the fused attention of a run never keeps
        saved=Count.of(short.saved, long.saved).fixed,
    )


def _outside(model: Any, blocks: nn.ModuleList, tokens: int) -> tuple[dict[_Kind, _Called], _Run]:
    """One row: what a block of each kind is called with, and the work outside of blocks."""
    inputs: dict[_Kind, _Called] = {}
    inside = 0

    def work(counter: FlopCounterMode) -> Tensor:
        begun = 0

        def entering(block: nn.Module, args: Any, kwargs: Any) -> None:
            nonlocal begun
            inputs.setdefault(_kind(block), _as_called((block, args, kwargs)))
            begun = counter.get_total_flops()
            torch.set_grad_enabled(False)

        def leaving(_block: nn.Module, _args: Any, output: Any) -> Any:
            nonlocal inside
            inside += counter.get_total_flops() - begun
            torch.set_grad_enabled(True)
            hidden = _hidden(output).detach().requires_grad_()
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handles = [block.register_forward_pre_hook(entering, with_kwargs=True) for block in blocks]
        handles += [block.register_forward_hook(leaving) for block in blocks]
        try:
            return run_on_meta(model, 1, tokens)
        finally:
            torch.set_grad_enabled(True)
            for handle in handles:
                handle.remove()

    run = _watched(work, model.parameters())
    run.forward -= inside
    return inputs, run


def _caches(called: _Called) -> list[Cache]:
    return [value for value in tree_leaves(called[1:]) if isinstance(value, Cache)]


def _as_called(called: _Called) -> _Called:
    """The same with caches of their own, which a call makes longer."""

    def own(value: Any) -> Any:
        if not isinstance(value, Cache):
            return value
        pairs = ((layer.keys, layer.values) for layer in value.layers)
        return DynamicCache(
            [tuple(t.detach().requires_grad_(t.requires_grad) for t in pair) for pair in pairs]
        )

    return called[0], *tree_map(own, called[1:])


def _without_cache(called: _Called) -> _Called:
    """The same as if nothing stood before the text."""
    seen = _caches(called)[0].get_seq_length()

    def bare(value: Any) -> Any:
        mask = isinstance(value, Tensor) and value.dim() == 4 and value.shape[-2] < value.shape[-1]
        return None if isinstance(value, Cache) else value[..., seen:] if mask else value

    return called[0], *tree_map(bare, called[1:])


def _alone(called: _Called, passing_on: bool) -> _Run:
    """A block by itself, on inputs that it had in the model."""
    block, args, kwargs = _as_called(called)
    named = dict(kwargs)
    first, *others = args or (named.pop("hidden_states"),)
    hidden = first.detach().requires_grad_(passing_on)
    given = [t for t in tree_leaves((others, named)) if isinstance(t, Tensor)]
    calls: list[Call] = []

    def calling(module: nn.Module, inputs: Any) -> None:
        calls.append(Call(type(module).__name__, module, inputs[0]))

    linear = [module for module in block.modules() if is_frozen_linear(module)]
    handles = [module.register_forward_pre_hook(calling) for module in linear]
    try:
        run = _watched(
            lambda _: _hidden(block(hidden, *others, **named)), [*block.parameters(), *given]
        )
    finally:
        for handle in handles:
            handle.remove()
    run.calls = calls
    return run


def _watched(work: Callable[[FlopCounterMode], Tensor], apart: Iterable[Tensor]) -> _Run:
    """Do ``work``, and its backward pass; what autograd keeps of ``apart`` does not count."""
    run, storages = _Run(), {}
    for tensor in apart:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in storages:
            storages[storage._cdata] = storage  # held, so that no address comes twice
            run.saved += storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = work(counter)
        run.forward = counter.get_total_flops()
        if result.requires_grad:
            torch.autograd.backward(result, torch.ones_like(result))
        run.backward = counter.get_total_flops() - run.forward
    return run


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
