"""Updates as the aggregator reads and clips them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as torch_save

from sealtune.errors import AdapterMismatchError, UpdateBoundError
from sealtune.job.schedule import rate_shares
from sealtune.methods.federated.adapter import AdapterReader, write_adapter
from sealtune.methods.federated.norm_bound import NormBound
from sealtune.methods.federated.update import read_update
from sealtune.model.trainable import write_tensors
from tests.methods.rounds import SHAPES, job, tensors

LIMITS = dict.fromkeys(SHAPES, 10.0)


def reader() -> AdapterReader:
    return AdapterReader(write_adapter(tensors(0)), SHAPES)


def test_what_a_site_writes_is_read_where_it_lies() -> None:
    sent = tensors(1)
    data = write_tensors({n: torch.from_numpy(t) for n, t in sent.items()})
    found = reader().read(data)
    for name, tensor in sent.items():
        assert np.array_equal(found[name], tensor)
        assert np.shares_memory(found[name], np.frombuffer(data, np.uint8))


def test_another_layout_is_read_all_the_same() -> None:
    sent = tensors(1)
    data = torch_save({n: torch.from_numpy(t) for n, t in sent.items()}, metadata={"format": "np!"})
    found = reader().read(data)
    assert all(np.array_equal(found[name], tensor) for name, tensor in sent.items())


@pytest.mark.parametrize("at", [0, 7, 8, 30, 100])
@pytest.mark.parametrize("to", [0, 255])
def test_a_damaged_head_is_not_read_as_if_it_were_whole(at: int, to: int) -> None:
    data = bytearray(write_adapter(tensors(1)))
    data[at] = to
    try:
        found = reader().read(bytes(data))
    except AdapterMismatchError:
        return
    assert bytes(data) == write_adapter(found)  # a byte that was so before


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[8:]])
def test_a_wrong_length_is_refused(change: Any) -> None:
    with pytest.raises(AdapterMismatchError):
        reader().read(change(write_adapter(tensors(1))))


def test_an_update_is_the_difference_and_its_norm() -> None:
    before, after = tensors(0), tensors(1)
    update = read_update(after, before, LIMITS)
    assert all(np.array_equal(update[n], after[n] - before[n]) for n in SHAPES)
    flat = np.concatenate([t.astype(np.float64).ravel() for t in update.values()])
    assert update.norm == pytest.approx(float(np.linalg.norm(flat)), rel=1e-7)
    assert list(update) == list(SHAPES)
    shorter = replace(update, factor=0.25)
    assert np.array_equal(shorter["a"], (after["a"] - before["a"]) * np.float32(0.25))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, -3e38])
@pytest.mark.parametrize("place", [0, 40_000, -1])
def test_one_bad_number_anywhere_is_found(value: float, place: int) -> None:
    before = tensors(0)
    for name in SHAPES:
        after = {n: t.copy() for n, t in before.items()}
        flat = after[name].reshape(-1)
        flat[place % flat.size] = value
        with pytest.raises(UpdateBoundError, match=f"{name} was moved by more than"):
            read_update(after, before, LIMITS)


ROWS = {"north": 100, "south": 1000, "west": 10}


def norms(
    bound: float | str = "auto",
    ratio: float = 1.0,
    *,
    number: int = 1,
    train: Mapping[str, Any] | None = None,
    **tuning: Any,
) -> NormBound:
    """Of a round in a job of ten."""
    given = {"learning_rate": 1e-3, "batch_size": 10, **(train or {})}
    settings = job(train=given, aggregation={"norm_bound": bound}, tuning={"lora": tuning})
    shares = {
        site: rate_shares(settings.train, settings.train.steps(rows), number, 10)
        for site, rows in ROWS.items()
    }
    sizes = {"q.lora_A.weight": 300, "q.lora_B.weight": 100}
    return NormBound(settings, dict.fromkeys(ROWS, sizes), shares, ratio)


def test_tensors_with_another_rate_count_for_what_they_move() -> None:
    """LoRA+: an honest first round of a fast B is not clipped."""
    assert norms(learning_rate_ratio=8.0).of("north") == pytest.approx(
        1e-3 * 10 * math.sqrt(300 + 100 * 8**2)
    )


def test_a_rate_of_its_own_counts_for_what_it_moves() -> None:
    own = norms(learning_rate_ratio=8.0, learning_rate=2e-3)
    assert own.of("north") == pytest.approx(10 * 2e-3 * math.sqrt(300 + 100 * 8**2))


def test_steps_count_by_their_rates() -> None:
    """Warm-up: rounds of an honest site that move twice as far as the one before are not cut."""
    train = {"schedule": "cosine", "warmup": 0.4}
    bounds = [norms(train=train, number=number).of("north") for number in (1, 2, 10)]
    whole = 1e-3 * math.sqrt(400)
    assert bounds[0] == pytest.approx(whole * sum(range(1, 11)) / 40)
    assert bounds[1] == pytest.approx(whole * sum(range(11, 21)) / 40)
    assert (bounds[2] or 0) < 0.1 * whole * 10


def test_the_first_bound_is_what_adam_does_in_one_direction() -> None:
    bound = norms()
    for site, steps in (("north", 10), ("south", 100), ("west", 1)):
        assert bound.of(site) == pytest.approx(1e-3 * steps * math.sqrt(400))
    assert bound.clip("south", 0.2) == 1
    assert bound.clip("north", 2.0) == pytest.approx(0.1)
    assert bound.clipped == ["north"]


def test_the_next_bound_follows_the_median_before_clipping() -> None:
    bound = norms()
    for site, share in (("north", 0.2), ("south", 0.3), ("west", 500.0)):
        bound.clip(site, share * (bound.of(site) or 0))
    assert bound.next_ratio == pytest.approx(1.5 * 0.3)


def test_updates_of_zero_do_not_close_the_bound_for_ever() -> None:
    bound = norms(ratio=0.4)
    for site in ROWS:
        bound.clip(site, 0.0)
    assert bound.next_ratio == 0.4


def test_a_stated_bound_holds_for_all_and_none_for_nobody() -> None:
    assert norms(0.5).of("south") == 0.5
    assert norms(0.5).clip("south", 5.0) == pytest.approx(0.1)
    assert norms("none").of("south") is None
    assert norms("none").clip("south", 1e9) == 1
