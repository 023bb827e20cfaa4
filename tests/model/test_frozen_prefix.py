"""Blocks below the first tuned one run once: every step is what it was with all blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sealtune.job.sections import LoraSpec, TuningSpec
from sealtune.model.checkpointing import compute_blocks_again
from sealtune.model.compute import Compute
from sealtune.model.frozen_prefix import FrozenPrefix
from sealtune.model.load import load_model
from sealtune.model.samples import CutBatch
from sealtune.model.structure import find_blocks
from sealtune.model.tasks import base_model
from sealtune.model.texts import Texts
from sealtune.model.trainable import trainable_state
from sealtune.model.training import evaluate, local_round
from sealtune.plan.planner import make_plan
from sealtune.plan.steady import steady_blocks
from sealtune.tuning.apply import apply_tuning
from tests.enclave.flow import make_job
from tests.float64 import in_float64
from tests.model.test_load import spec
from tests.model.test_lora import adapted
from tests.model.test_tasks import task_of
from tests.model.test_training import SPEC
from tests.model.tiny import make_texts


class Kept:
    """What the blocks make of each row, kept as it is."""

    def __init__(self, texts: Texts, prefix: FrozenPrefix) -> None:
        self.lengths, self._texts, self._prefix = texts.lengths, texts, prefix
        self._rows: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def batch(self, chosen: Any) -> CutBatch:
        plain = self._texts.batch(chosen)
        new = [row for row in chosen if row not in self._rows]
        if new:
            for row, hidden in zip(new, self._prefix(self._texts.batch(new)), strict=True):
                self._rows[row] = hidden[: self.lengths[row]]
        width = next(iter(self._rows.values())).shape[1]
        entering = torch.zeros(*plain.input_ids.shape, width)
        for i, row in enumerate(chosen):
            entering[i, : self.lengths[row]] = self._rows[row]
        given = (plain.input_ids, plain.lengths, plain.labels, entering, self._prefix.entry)
        return CutBatch(*given)


@pytest.mark.parametrize("task", ["classification", "label-words", "causal-lm"])
def test_a_round_and_a_test_are_the_same(llama: Path, task: str) -> None:
    with in_float64():
        whole, upper = (
            adapted(llama, task=task, layers=(1,), dropout=0.1).double() for _ in range(2)
        )
        tasks = task_of(llama, task)
        texts = tasks.encode(make_texts(60, 3))
        rows = Kept(texts, FrozenPrefix(upper, 1, Compute()))
        for number in (1, 2):
            given = {"seed": 7, "round": number, "site": "a"}
            one = local_round(whole, tasks, texts, SPEC, **given)  # type: ignore[arg-type]
            two = local_round(upper, tasks, rows, SPEC, **given)  # type: ignore[arg-type]
            assert two.losses == pytest.approx(one.losses, rel=1e-12)
        expected = trainable_state(whole)
        for name, tensor in trainable_state(upper).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-10)
        tested = [evaluate(m, tasks, d, batch_size=16) for m, d in ((whole, texts), (upper, rows))]
    assert tested[0].correct == tested[1].correct
    assert tested[1].loss == pytest.approx(tested[0].loss, rel=1e-12)


def test_with_blocks_that_are_computed_again(llama: Path) -> None:
    """In float32: the backward pass computes them outside of what makes float64."""
    losses = []
    for again in (False, True):
        model, task = adapted(llama, layers=(1,)), task_of(llama)
        if again:
            compute_blocks_again(base_model(model))
        texts = task.encode(make_texts(60, 3))
        rows = Kept(texts, FrozenPrefix(model, 1, Compute()))
        losses.append(local_round(model, task, rows, SPEC, seed=7, round=1, site="a").losses)
    assert losses[0] == losses[1]


def test_lower_blocks_run_once_for_each_text_and_no_upper_block_does(llama: Path) -> None:
    model, task = adapted(llama, layers=(1,)), task_of(llama)
    _, blocks = find_blocks(model)
    calls = {0: 0, 1: 0}
    for number in calls:

        def count(*_: Any, number: int = number) -> None:
            calls[number] += 1

        blocks[number].register_forward_hook(count)
    texts = task.encode(make_texts(16, 3))
    rows = Kept(texts, FrozenPrefix(model, 1, Compute()))
    for times in (1, 2, 3):
        evaluate(model, task, rows, batch_size=8)
        assert calls == {0: 2, 1: 2 * times}


@pytest.mark.parametrize(
    ("tuning", "steady"),
    [
        ({"lora": {"layers": (1,)}}, 1),
        ({"lora": {"layers": (0, 1)}}, 0),
        ({"lora": {}}, 0),
        ({"ptuning": {}}, 0),
    ],
)
@pytest.mark.parametrize("compute", ["masked", "enclave"])
def test_the_plan_says_which_blocks_are_steady(
    llama: Path, tmp_path: Path, compute: str, tuning: dict[str, Any], steady: int
) -> None:
    job = make_job(
        tmp_path, llama, tuning=TuningSpec.model_validate(tuning), protection={"compute": compute}
    )
    assert make_plan(job, 3, backbone=False).steady_blocks == steady


@pytest.mark.parametrize(
    ("key", "value"),
    [("attention_dropout", 0.1), ("num_kv_shared_layers", 1), ("hidden_size_per_layer_input", 4)],
)
def test_models_that_drop_or_look_back_run_whole(llama: Path, key: str, value: float) -> None:
    model = load_model(spec(llama, "classification"), 3, meta=True)
    tuned = apply_tuning(model, TuningSpec(lora=LoraSpec(layers=(1,))), "classification", 0)
    _, blocks = find_blocks(model)
    assert steady_blocks(tuned, blocks) == 1
    setattr(model.config, key, value)
    assert steady_blocks(tuned, blocks) == 0
