"""Aggregator and client enclaves together, driven by bytes, without a network engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sealtune.baseline.workbench import Workbench, weighted_mean
from sealtune.errors import SiteLostError, StorageError
from sealtune.job.spec import Job
from sealtune.model.export import load_adapter
from tests.enclave.world import SITES, World, make_job

WEIGHTS = "adapter_model.safetensors"


def plain_federated(job: Job) -> dict[str, torch.Tensor]:
    bench = Workbench(job)
    state = bench.initial
    for number in range(1, job.job.rounds + 1):
        updates = [
            bench.train(
                state,
                data.train,
                round=number,
                site=site,
                steps=job.train.steps_per_round,
                on_step=lambda _: None,
            )[0]
            for site, data in bench.sites.items()
        ]
        state = weighted_mean(updates, [len(d.train) for d in bench.sites.values()])
    return state


def test_the_result_is_that_of_plain_fedavg(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    world = World(tmp_path / "run", job)
    world.run()
    expected = plain_federated(job)
    for site in SITES:
        got = load_file(tmp_path / "run" / "sites" / site / "adapter" / WEIGHTS)
        assert got.keys() == expected.keys()
        worst = max(float((got[n] - expected[n]).abs().max()) for n in got)
        assert worst < 1e-6, f"largest difference {worst}"


@pytest.mark.parametrize("task", ["label-words", "causal-lm"])
def test_other_tasks_run_through(llama: Path, tmp_path: Path, task: str) -> None:
    job = make_job(tmp_path, llama, model={"task": task}, job={"rounds": 1})
    world = World(tmp_path / "run", job)
    world.run()
    final = world.server_log.of("final")[0]["sites"]
    assert {entry["outcome"] for entry in final.values()} == {"ok"}
    assert load_adapter(tmp_path / "run" / "sites" / "north" / "adapter").fingerprint.task == task


def test_events_tell_the_whole_story(llama: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "run", make_job(tmp_path, llama))
    world.run()
    rounds = world.server_log.of("round")
    assert [event["round"] for event in rounds] == [0, 1, 2, 3]
    for event in rounds:
        assert list(event["sites"]) == list(SITES)
        for entry in event["sites"].values():
            assert entry["outcome"] == "ok"
            assert entry["bytes_up"] > 0
            assert set(entry["seconds"]) == {"enclave", "accelerator", "pads"}
    assert [rounds[1]["sites"][s]["examples"] for s in SITES] == [40, 70]
    assert all(0 < e["train_loss"] < 10 for e in rounds[1]["sites"].values())
    assert rounds[0]["sites"]["north"]["total"] == 20
    attested = world.server_log.of("attested")
    assert [(e["who"], e["confidential"]) for e in attested] == [("south", False), ("north", False)]
    log = world.logs["north"]
    assert log.of("attested")[0]["who"] == "server"
    assert [(e["round"], e["step"]) for e in log.of("step")] == [
        (r, i) for r in (1, 2, 3) for i in (1, 2, 3)
    ]
    assert [e["round"] for e in log.of("evaluated")] == [0, 3]
    assert log.of("exported")[0]["agreement"] == 1
    final = world.server_log.of("final")[0]
    assert final["round"] == 3
    assert final["sites"]["south"]["correct"] == world.logs["south"].of("evaluated")[1]["correct"]


def test_the_network_sees_no_text_and_no_tensor(llama: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "run", make_job(tmp_path, llama))
    world.run()
    adapter = (tmp_path / "run" / "sites" / "north" / "adapter" / WEIGHTS).read_bytes()
    traffic = b"".join(world.wire)
    for canary in (b"lora_A", b"score.weight", b"train_loss", b"asthma", adapter[-64:]):
        assert canary not in traffic
    assert b"lora_A" in adapter  # so that this test can fail


def test_a_resumed_run_gives_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    straight = World(tmp_path / "straight", job)
    straight.run()
    for exchanges in (1, 3, 4, 5):  # in the handshake, after evaluation, after rounds 1 and 2
        folder = tmp_path / f"broken-{exchanges}"
        broken = World(folder, job)
        for _ in range(exchanges):
            broken.exchange()
        resumed = World(folder, job, resume=True)
        resumed.run()
        for site in SITES:
            place = Path("sites") / site / "adapter" / WEIGHTS
            assert (folder / place).read_bytes() == (tmp_path / "straight" / place).read_bytes()


def test_a_resumed_run_repeats_no_finished_round(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    broken = World(tmp_path / "run", job)
    for _ in range(5):
        broken.exchange()
    assert [e["round"] for e in broken.server_log.of("round")] == [0, 1]
    assert broken.server.next() is not None  # the result of round 2 comes in, and is kept
    resumed = World(tmp_path / "run", job, resume=True)
    resumed.run()
    assert [e["round"] for e in resumed.server_log.of("round")] == [3]
    assert not resumed.logs["north"].of("evaluated")[:-1]


def test_resuming_after_the_end_only_releases_again(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    World(tmp_path / "run", job).run()
    again = World(tmp_path / "run", job, resume=True)
    again.run()
    assert not again.server_log.of("round")
    assert again.server_log.of("final")


def test_resume_without_a_checkpoint_starts_anew(llama: Path, tmp_path: Path) -> None:
    world = World(tmp_path / "run", make_job(tmp_path, llama, job={"rounds": 1}), resume=True)
    world.run()
    assert [e["round"] for e in world.server_log.of("round")] == [0, 1]


def test_a_checkpoint_that_was_altered_is_refused(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    world = World(tmp_path / "run", job)
    world.run()
    sealed = bytearray(world.state.path.read_bytes())
    sealed[-20] ^= 1
    world.state.path.write_bytes(sealed)
    with pytest.raises(StorageError, match="does not open"):
        World(tmp_path / "run", job, resume=True)


def test_a_checkpoint_of_another_job_is_refused(llama: Path, tmp_path: Path) -> None:
    World(tmp_path / "run", make_job(tmp_path, llama)).run()
    other = make_job(tmp_path, llama, job={"seed": 4})
    with pytest.raises(StorageError, match="does not open"):
        World(tmp_path / "run", other, resume=True)


def test_a_lost_message_costs_one_round_and_a_new_handshake(llama: Path, tmp_path: Path) -> None:
    # exchanges: 0 challenge, 1 key, 2 evaluation, 3 round 1, ...
    for direction in ("down", "up"):
        world = World(
            tmp_path / direction,
            make_job(tmp_path, llama, network={"min_sites": 1}),
            tamper=lambda site, way, number, body, direction=direction: (
                None if (site, way, number) == ("south", direction, 3) else body
            ),
        )
        world.run()
        rounds = world.server_log.of("round")
        assert [e["sites"]["south"]["outcome"] for e in rounds] == ["ok", "failed", "ok", "ok"]
        assert "lost it" in rounds[1]["sites"]["south"]["reason"]
        assert [e["sites"]["north"]["outcome"] for e in rounds] == ["ok"] * 4
        assert len([e for e in world.server_log.of("attested") if e["who"] == "south"]) == 2


def test_an_altered_message_is_refused_and_named(llama: Path, tmp_path: Path) -> None:
    def flip(site: str, way: str, number: int, body: bytes) -> bytes:
        if (site, way, number) != ("south", "up", 3):
            return body
        return body[:200] + bytes([body[200] ^ 1]) + body[201:]

    job = make_job(tmp_path, llama, network={"min_sites": 1})
    world = World(tmp_path / "run", job, tamper=flip)
    world.run()
    entry = world.server_log.of("round")[1]["sites"]["south"]
    assert entry["outcome"] == "failed"
    assert entry["reason"].startswith("SealError")


def test_fewer_sites_than_the_quorum_end_the_run(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    world = World(
        tmp_path / "run",
        job,
        tamper=lambda site, _w, number, body: None if (site, number) == ("south", 4) else body,
    )
    with pytest.raises(SiteLostError, match="1 of 2 sites got through round 2.*south: the network"):
        world.run()
    assert world.server_log.of("round")[-1]["sites"]["south"]["outcome"] == "failed"
    resumed = World(tmp_path / "run", job, resume=True)
    resumed.run()
    assert [e["round"] for e in resumed.server_log.of("round")] == [2, 3]


def test_a_site_that_never_answers_the_handshake_is_left_out(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, network={"min_sites": 1}, job={"rounds": 1})
    world = World(
        tmp_path / "run",
        job,
        tamper=lambda site, _w, _n, body: None if site == "south" else body,
    )
    world.run()
    outcomes = [e["sites"]["south"]["outcome"] for e in world.server_log.of("round")]
    assert outcomes == ["failed", "failed"]
    assert world.server_log.of("final")[0]["sites"]["north"]["outcome"] == "ok"


def test_a_diverging_site_says_why(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, network={"min_sites": 1})
    world = World(tmp_path / "run", job)
    trainer = world.clients["south"]._trainer
    with torch.no_grad():
        trainer._model.get_input_embeddings().weight.fill_(float("nan"))  # type: ignore[attr-defined]
    world.run()
    entry = world.server_log.of("round")[1]["sites"]["south"]
    assert entry["outcome"] == "failed"
    assert "ModelError: the loss is nan at step 1" in entry["reason"]
