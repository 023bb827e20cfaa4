"""Formulas against slow, obvious counts of the same thing."""

from __future__ import annotations

import os
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sealtune.advise import costs
from sealtune.advise.costs import Batch, Work
from sealtune.advise.counts import count_part
from sealtune.advise.operations import Group, run_on_meta
from sealtune.advise.shape import Shape, read_shape, structure_only
from sealtune.errors import ModelError
from sealtune.job.spec import ModelSpec
from sealtune.model.activations import Form, pack
from sealtune.model.batches import epoch_batches
from sealtune.model.cut_chunk import Chunk
from sealtune.model.load import load_model
from sealtune.model.partial import load_part
from sealtune.plan.planner import make_plan
from sealtune.tuning.apply import apply_tuning
from tests.advise.conftest import BLOCKS, CLASSES
from tests.sample_job import make_job

TUNINGS: list[dict[str, Any]] = [
    {"lora": {}},
    {"lora": {}, "spf": {"qkv": 0.5}},
    {"ptuning": {"virtual_tokens": 5}},
]
TASKS = ("classification", "causal-lm")


def classes_of(task: str) -> int | None:
    return CLASSES if task == "classification" else None


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_blocks_by_themselves_add_up_to_a_step(
    llama: Path, task: str, first: int, tuning: dict[str, Any]
) -> None:
    """The very model that a party loads, counted as a whole, product by product."""
    split = {"job": {"name": "s", "method": "split"}, "split": {"cut": max(first, 1)}}
    job = make_job(llama, model={"path": str(llama), "task": task}, tuning=tuning, **split)
    shape = read_shape(job, classes_of(task))
    model = (
        load_part(job.model, classes_of(task), first, "top", meta=True)
        if first
        else load_model(job.model, classes_of(task), meta=True)
    )
    tuned = apply_tuning(model.to("meta"), job.tuning, task, 0, first_block=first)
    rows, tokens = 2, 24
    with FlopCounterMode(display=False) as counter:
        loss = run_on_meta(tuned, rows, tokens)
        forward = counter.get_total_flops()
        loss.backward()
    batch = Batch(rows * tokens, tokens)
    ahead = costs.forward_work(shape, batch, first)
    assert ahead.flops == forward
    # fused attention, as in a run, makes its scores again; the one that was counted kept them
    again = 2 * rows * tokens * tokens * 64 * (BLOCKS - first)
    if "ptuning" in tuning:  # of the first block's queries, no gradient is wanted
        again -= rows * tokens * tokens * 64 // 2
    whole = costs.step_work(shape, batch, first)
    assert whole.flops - forward - again == counter.get_total_flops() - forward


def test_blocks_below_the_first_tuned_one_have_no_backward_pass(llama: Path) -> None:
    shape = read_shape(make_job(llama, tuning={"lora": {"layers": [2]}}), CLASSES)
    assert [bool(block.backward.fixed) for block in shape.part()] == [False, False, True, True]
    assert [block.saved > 0 for block in shape.part()] == [False, False, True, True]
    assert [b for block in shape.part()[:2] for b in block.groups if b.backward] == []
    whole = costs.step_work(shape, Batch(32, 16))
    assert whole.flops < costs.step_work(shape, Batch(32, 16), checkpointing=True).flops


def test_groups_prefix_and_trainable_are_the_slice_plans(llama: Path) -> None:
    targets = ["v_proj", "down_proj"]
    for tuning in (
        {},
        {"lora": {"layers": [2, 3], "targets": targets}},
        {"ptuning": {"projection": True, "hidden": 12}},
    ):
        for protect in ("adapter", "adapter+data"):
            job = make_job(llama, tuning=tuning, protection={"protect": protect})
            shape, plan = read_shape(job, CLASSES), make_plan(job, CLASSES)
            first = shape.first_tuned if protect == "adapter" and shape.prefix_fits else 0
            assert first == plan.prefix_blocks
            mine = [g for block in shape.part(first) for g in block.groups]
            assert mine == [
                Group(g.in_features, sum(g.out_features), g.backward) for g in plan.groups
            ]
            assert shape.trainable() == sum(map(prod, plan.trainable.values()))


@pytest.mark.parametrize("tuning", [*TUNINGS, {"ptuning": {"projection": True}}])
def test_trainable_of_a_top_is_the_split_plans(llama: Path, tuning: dict[str, Any]) -> None:
    for cut in range(1, BLOCKS):
        split = {"job": {"name": "s", "method": "split"}, "split": {"cut": cut}}
        job = make_job(llama, tuning=tuning, **split)
        plan = make_plan(job, CLASSES)
        assert read_shape(job, CLASSES).trainable(cut) == sum(map(prod, plan.trainable.values()))


@pytest.mark.parametrize("task", TASKS)
def test_parameters_are_those_that_a_party_loads(llama: Path, task: str) -> None:
    job = make_job(llama, model={"path": str(llama), "task": task})
    shape = read_shape(job, classes_of(task))
    whole = load_model(job.model, classes_of(task), meta=True)
    assert shape.whole == sum(p.numel() for p in whole.parameters())
    for cut in range(1, BLOCKS):
        for part, mine in (("bottom", shape.bottom(cut)), ("top", shape.top(cut))):
            model = load_part(job.model, classes_of(task), cut, part, meta=True)  # type: ignore[arg-type]
            assert mine == sum(p.numel() for p in model.parameters()), (cut, part)


@pytest.mark.parametrize("tuning", [{}, {"ptuning": {"virtual_tokens": 32}}])
def test_saved_bytes_are_what_autograd_keeps(llama: Path, tuning: dict[str, Any]) -> None:
    """On the real device, with the fused attention of a real run."""
    job = make_job(llama, tuning=tuning)
    shape = read_shape(job, CLASSES)
    model = apply_tuning(load_model(job.model, CLASSES), job.tuning, "classification", 0).train()
    kept: dict[int, Any] = {}
    frozen = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in frozen:
            kept[storage._cdata] = storage
        return tensor

    rows, tokens = 4, 32
    ids = torch.full((rows, tokens), 5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum()
    real = sum(storage.nbytes() for storage in kept.values())
    mine = rows * tokens * (sum(b.saved for b in shape.part()) + shape.outside.saved)
    mine += rows * sum(b.virtual for b in shape.part())
    assert mine == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("with_ids", [False, True])
def test_upload_bytes_are_those_of_a_packed_chunk(shape: Shape, form: Form, with_ids: bool) -> None:
    lengths, width = (3, 8, 5), 16
    chunk = Chunk(
        "train",
        lengths,
        (0, 1, 2),
        tuple((1,) * n for n in lengths) if with_ids else None,
        tuple(pack(torch.randn(n, width), form) for n in lengths),
    )
    uploading = replace(shape, width=width, head_per_token=with_ids)
    mine = costs.upload_bytes(uploading, form, 3, sum(lengths), 1 << 20)
    body = len(chunk.body())
    assert body < mine < body + 500


def test_accelerator_bytes_are_codes_both_ways(shape: Shape) -> None:
    def moved(first: int, *, backward: bool) -> float:
        batch = Batch(tokens, 12)
        step = costs.masked_step(shape, batch, first, backward=backward)
        return step.moved

    tokens, total = 24, 0
    for block in shape.part():
        for group in block.groups:
            once = 4 * tokens * (group.inner + group.outer)
            total += once * (2 if group.backward else 1)
    assert moved(0, backward=True) == total
    # with plain leading blocks, token ids and hidden states cross instead
    later = moved(2, backward=False)
    assert later < total
    assert later == tokens * (8 + 4 * shape.width) + sum(
        4 * tokens * (g.inner + g.outer) for b in shape.blocks[2:] for g in b.groups
    )


def test_more_work_costs_more(shape: Shape) -> None:
    small, large = Batch(64, 16), Batch(128, 16)
    for cut in range(BLOCKS):
        assert costs.step_work(shape, small, cut).flops < costs.step_work(shape, large, cut).flops
        again = costs.step_work(shape, small, cut, checkpointing=True)
        assert again.flops > costs.step_work(shape, small, cut).flops
        assert costs.top_memory(shape, cut, Batch(64, 16)) < costs.top_memory(
            shape, cut, Batch(6400, 16)
        )
        assert costs.activation_memory(
            shape, Batch(64, 16), cut, width=2
        ) < costs.activation_memory(shape, Batch(64, 16), cut)
    for cut in range(1, BLOCKS - 1):
        assert costs.top_memory(shape, cut + 1, Batch(64, 16)) < costs.top_memory(
            shape, cut, Batch(64, 16)
        )
        assert costs.bottom_memory(shape, cut + 1, 64, 0) > costs.bottom_memory(shape, cut, 64, 0)
        assert (
            costs.step_work(shape, small, cut + 1).flops < costs.step_work(shape, small, cut).flops
        )
    assert costs.plain_memory(shape, Batch(64, 16)) < costs.plain_memory(shape, Batch(6400, 16))
    kept = costs.activation_memory(shape, Batch(6400, 16))
    assert costs.activation_memory(shape, Batch(6400, 16), checkpointing=True) < kept


def test_work_adds_and_multiplies() -> None:
    assert Work(1, 2, 3) + Work(4, 5, 6) * 2 == Work(9, 12, 15)


def test_steps_are_padded_as_in_a_run() -> None:
    lengths = [3, 9, 17, 8, 30, 12, 5]
    part = count_part(lengths, len(lengths) * 10, 2, 3, seed=7)
    batches = epoch_batches(lengths, 2, 7)
    widths = [-(-max(lengths[i] for i in chosen) // 8) * 8 for chosen in batches]
    assert part.step.tokens == sum(2 * w for w in widths) / len(widths)
    assert part.largest.tokens == 2 * max(widths)
    assert part.rows == 70
    assert part.tokens == 10 * sum(lengths)
    assert part.padded >= part.tokens
    assert count_part([], 0, 2, 3, seed=0).tokens == 0


def test_only_the_structure_of_a_model_is_needed(llama: Path, tmp_path: Path) -> None:
    for path in llama.iterdir():
        if path.suffix != ".safetensors":
            os.link(path, tmp_path / path.name)
    job = make_job(tmp_path)
    assert read_shape(job.model_copy(update={"model": structure_only(job.model)}), CLASSES)
    with pytest.raises(ModelError, match="there is no model folder"):
        structure_only(ModelSpec(path=str(tmp_path / "none")))
