"""What is ruled out and why, what is recommended, and that every stated figure counts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sealtune.advise.choose import NEAR, Advice, choose
from sealtune.advise.costs import Batch
from sealtune.advise.counts import Counts, Part
from sealtune.advise.equipment import REFERENCE, Equipment, probe, scaled, take_stock
from sealtune.advise.estimate import FEW, MANY, Option, cuts, estimate
from sealtune.advise.shape import Shape
from sealtune.job.job_file import EquipmentSpec
from sealtune.job.settings import Settings
from sealtune.job.spec import Job
from tests.advise.conftest import BLOCKS
from tests.sample_job import make_job


def part(rows: int) -> Part:
    return Part(rows, rows * 30, rows * 32.0, Batch(16 * 32, 32), Batch(16 * 40, 40))


COUNTS = Counts(
    train={"north": part(20_000), "south": part(10_000)},
    test={"north": part(500), "south": part(500)},
    counted=4000,
    rows=31_000,
)
SPLIT: dict[str, Any] = {"job": {"name": "s", "method": "split"}, "split": {"cut": 2}}


def stock(**stated: Any) -> Equipment:
    return take_stock(EquipmentSpec(**stated), 64, 128, probing=False)


def advise(job: Job, shape: Shape, prefer: Any = "time", **stated: Any) -> Advice:
    equipment = stock(**stated)
    return choose(estimate(job, shape, COUNTS, equipment), job, equipment, prefer)


def find(advice: Advice, way: str, protect: str = "", cut: int | None = None) -> Option:
    return next(o for o in advice.options if (o.way, o.protect, o.cut) == (way, protect, cut))


@pytest.fixture
def job(llama: Path) -> Job:
    return make_job(llama, train={"steps_per_round": "epoch"})


def test_every_way_is_there_once(job: Job, shape: Shape) -> None:
    names = [option.name for option in advise(job, shape).options]
    assert names == [
        "plain PEFT",
        "Method 1, adapter",
        "Method 1, adapter+data",
        *(f"Method 2 (split), cut {cut}" for cut in range(1, BLOCKS)),
    ]


def test_cuts_of_large_models_are_a_grid_with_the_jobs_own(job: Job, llama: Path) -> None:
    assert cuts(job, MANY) == list(range(1, MANY))
    for blocks in (13, 30, 80, 126):
        grid = cuts(job, blocks)
        assert len(grid) == FEW
        assert 0 < grid[0] < grid[-1] < blocks
    own = make_job(llama, **{**SPLIT, "split": {"cut": 77}})
    assert set(cuts(own, 80)) == {*cuts(job, 80), 77}


def test_no_client_tee_leaves_method_2(job: Job, shape: Shape) -> None:
    advice = advise(job, shape, client_tee=False)
    assert advice.best is not None
    assert advice.best.way == "split"
    for protect in ("adapter", "adapter+data"):
        assert any("client_tee = false" in w for w in find(advice, "federated-lora", protect)
                   .ruled_out)  # fmt: skip
    assert advice.reason.startswith("no other method can be done")


def test_small_memory_is_named_with_what_is_needed(job: Job, shape: Shape) -> None:
    advice = advise(job, shape, client_tee_memory_gib=0.2)
    (reason,) = find(advice, "federated-lora", "adapter+data").ruled_out
    assert reason.startswith("client TEE of 205 MiB cannot hold 4")
    # a server that holds late tops and no early ones
    tops = [find(advice, "split", cut=cut).memory_mib["server_enclave"] for cut in (1, 2, 3)]
    assert tops == sorted(tops, reverse=True)
    limit = (tops[0] + tops[1]) / 2 / 1024
    advice = advise(job, shape, client_tee=False, server_tee_memory_gib=limit)
    assert find(advice, "split", cut=1).ruled_out
    assert not find(advice, "split", cut=2).ruled_out
    advice = advise(job, shape, owner_memory_gib=0.01, client_tee=False)
    assert advice.best is None
    assert "data owner's machine of 10.2 MiB cannot hold" in advice.reason


def test_a_slow_uplink_is_named_with_its_hours(job: Job, shape: Shape) -> None:
    advice = advise(job, shape, uplink_mbit=0.01, max_hours=5)
    (reason,) = find(advice, "split", cut=2).ruled_out
    assert reason.startswith("uplink of 0.01 Mbit/s needs ")
    assert reason.endswith(" min; max_hours allows 5 h 00 min")


def test_the_wish_for_protection_is_kept(llama: Path, shape: Shape) -> None:
    def out(protect: str) -> set[str]:
        advice = advise(make_job(llama, protection={"protect": protect}), shape)
        return {option.name for option in advice.options if option.ruled_out}

    assert out("adapter+data") == {"plain PEFT", "Method 1, adapter"}
    assert out("adapter") == {"plain PEFT"}
    assert out("insecure-none") == set()


def test_spf_and_early_blocks_rule_ways_out(llama: Path, shape: Shape) -> None:
    tuning = {"spf": {}, "lora": {"layers": [2, 3]}}
    advice = advise(make_job(llama, **SPLIT, tuning=tuning), shape)
    assert "cannot tune with SPF" in find(advice, "federated-lora", "adapter+data").ruled_out
    assert find(advice, "split", cut=3).ruled_out == (
        "tuning.lora.layers names block 2, below the cut",
    )
    assert not find(advice, "split", cut=2).ruled_out


def test_noise_rules_the_split_out(llama: Path, shape: Shape) -> None:
    """What the job asks for is refused there, so it is no advice."""
    advice = advise(make_job(llama, privacy={"unit": "example", "epsilon": 8.0}), shape)
    assert advice.best is not None
    assert advice.best.way == "federated-lora"
    assert all(
        "differential privacy" in " ".join(o.ruled_out) for o in advice.options if o.way == "split"
    )


def test_of_nearly_equal_cuts_the_jobs_own_or_the_earliest(llama: Path, shape: Shape) -> None:
    plain = make_job(llama)
    advice = advise(plain, shape, client_tee=False)
    assert advice.best is not None
    usable = [o for o in advice.options if not o.ruled_out]
    fastest = min(o.hours for o in usable)
    near = [o.cut for o in usable if o.hours <= NEAR * fastest]
    assert advice.best.cut == min(c for c in near if c)
    advice = advise(make_job(llama, **SPLIT), shape, client_tee=False)
    assert advice.best is not None
    assert advice.best.own
    assert advice.best.cut == 2
    assert "the job names it" in advice.reason or "takes" in advice.reason


def test_cheapest_and_fastest_may_differ(job: Job, shape: Shape) -> None:
    costs = {"server_tee_cost": 100.0, "accelerator_cost": 0.1, "client_tee_cost": 0.1}
    rates = {"server_tee_tflops": 100.0, "client_tee_tflops": 0.01}
    fast = advise(job, shape, "time", **costs, **rates).best
    free = advise(job, shape, "cost", server_tee_cost=0.0, accelerator_cost=9.0).best
    dear = advise(job, shape, "cost", server_tee_cost=0.0, client_tee_cost=9.0)
    assert fast is not None
    assert free is not None
    assert fast.way == "split"
    assert free.cost == 0.0
    assert "cheapest" in dear.reason or "no other" in dear.reason


# key -> a value that differs from what the reference machine has
CHANGES: dict[str, Any] = {
    "client_tee": False,
    "client_tee_memory_gib": 0.1,
    "client_tee_tflops": 7.0,
    "accelerator_tops": 500.0,
    "accelerator_gbit": 1.0,
    "owner_memory_gib": 0.1,
    "owner_tflops": 7.0,
    "server_tee_memory_gib": 0.1,
    "server_tee_tflops": 7.0,
    "uplink_mbit": 1.0,
    "downlink_mbit": 1.0,
    "one_machine": True,
    "client_tee_cost": 1.0,
    "accelerator_cost": 1.0,
    "server_tee_cost": 1.0,
    "max_hours": 0.001,
}


@pytest.mark.parametrize("key", EquipmentSpec.model_fields)
def test_every_stated_key_has_an_effect(job: Job, shape: Shape, key: str) -> None:
    plain, changed = advise(job, shape), advise(job, shape, **{key: CHANGES[key]})
    assert plain.options != changed.options
    assert stock(**{key: CHANGES[key]}).sources[key] == "stated"
    assert stock(**{key: CHANGES[key]}).spec.model_dump()[key] == pytest.approx(CHANGES[key])
    assert stock().sources[key] == "default"


def test_better_equipment_is_never_slower(job: Job, shape: Shape) -> None:
    for key in ("client_tee_tflops", "owner_tflops", "server_tee_tflops", "accelerator_tops",
                "uplink_mbit", "downlink_mbit", "accelerator_gbit"):  # fmt: skip
        hours = []
        for value in (0.1, 1.0, 10.0, 1000.0):
            hours.append([o.hours for o in advise(job, shape, **{key: value}).options])
        for slow, fast in pairwise(hours):
            assert all(f <= s for s, f in zip(slow, fast, strict=True)), key


def test_pieces_add_up(job: Job, shape: Shape) -> None:
    for option in advise(job, shape).options:
        assert option.hours * 3600 == pytest.approx(sum(option.seconds.values()))
        assert all(value >= 0 for value in option.seconds.values())


def test_both_methods_train_on_the_same_number_of_examples(llama: Path, shape: Shape) -> None:
    """So plain PEFT takes as long, whichever method the job names."""
    train = {"steps_per_round": "epoch"}
    one = advise(make_job(llama, train=train), shape)
    two = advise(make_job(llama, train=train, **SPLIT), shape)
    first, second = (find(a, "plain").seconds["train"] for a in (one, two))
    assert first == pytest.approx(second, rel=0.01)


def test_equipment_is_not_signed(job: Job) -> None:
    other = job.model_copy(update={"equipment": EquipmentSpec(uplink_mbit=1.0)})
    assert job.settings == other.settings
    assert "equipment" not in Settings.model_fields


def test_probing_finds_something() -> None:
    found = probe(32, 64)
    assert found.flops > 1e6
    assert found.ring > 1e6
    assert found.traffic > 1e6
    assert scaled(0.16) == pytest.approx(REFERENCE) or scaled(0.16).flops == REFERENCE.flops
    here = take_stock(EquipmentSpec(), 32, 64)
    assert here.sources["owner_tflops"] == "probed"
    assert (here.spec.client_tee_memory_gib or 0) > 0.5
