"""Aggregator and site enclaves together, driven by bytes, without a network engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sealtune.baseline.workbench import Workbench, weighted_mean
from sealtune.errors import DigestMismatchError, SiteLostError, StorageError
from sealtune.job.sections import JobSpec, ProtectionSpec, TrainSpec, TuningSpec
from sealtune.job.spec import Job, ModelSpec
from sealtune.launch.parties import admit_party
from sealtune.model.load import load_model
from sealtune.model.tasks import base_model
from sealtune.model.trainable import trainable_state
from sealtune.offload.enclave_pads import EnclavePads
from sealtune.offload.session import OffloadSession
from sealtune.plan.resolve import resolve
from sealtune.tuning.folder import load_adapter
from tests.enclave.flow import (
    SITES,
    Federation,
    make_federation,
    make_job,
    make_spare_job,
    sign_job,
)

WEIGHTS = "adapter_model.safetensors"
# exchanges of a run: 0 challenge, 1 key, 2 evaluation, 3 round 1, 4 round 2, 5 release
ROUND_1, ROUND_2 = 3, 4
SCHEDULED = TrainSpec(
    steps_per_round=3, batch_size=4, learning_rate=5e-3, schedule="cosine", warmup=0.2
)


def whole_run(job: Job, run_dir: Path) -> Federation:
    federation = make_federation(job, run_dir)
    federation.run(federation.aggregator())
    return federation


def adapter_file(federation: Federation, site: str) -> Path:
    return federation.run_dir / "sites" / site / "adapter" / WEIGHTS


def plain_federated(bench: Workbench, job: Job) -> dict[str, Tensor]:
    """FedAvg with nothing around it, for comparison."""
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
        state = weighted_mean(updates, [len(data.train) for data in bench.sites.values()])
    return state


def int8_workbench(job: Job) -> Workbench:
    """A baseline whose frozen layers have the values of the int8 backbone."""
    bench = Workbench(job)
    codes = load_file(resolve(job).plan.backbone.path)
    for name, tensor in codes.items():
        if not name.endswith(".weight"):
            continue
        module = name.removesuffix(".weight")
        value = tensor.float() * codes[f"{module}.scale"].reshape(-1, 1)
        layer = base_model(bench._model).get_submodule(module)
        layer = getattr(layer, "base_layer", layer)
        with torch.no_grad():
            layer.weight.copy_(value)
    return bench


TUNED: list[dict[str, Any]] = [
    {"lora": {"rank": 4}},
    {"lora": {"rank": 4, "scaling": "rslora", "learning_rate_ratio": 4.0}},
    {"lora": {"rank": 4, "start": "orthogonal"}},
    {"ptuning": {"virtual_tokens": 5}},
    {"ptuning": {"virtual_tokens": 5, "projection": True, "hidden": 12}},
]


@pytest.mark.parametrize("tuning", TUNED)
def test_the_result_is_that_of_plain_fedavg(
    llama: Path, tmp_path: Path, tuning: dict[str, Any]
) -> None:
    """What is trained is averaged; the file holds what follows from it: no perceptron."""
    job = make_job(tmp_path, llama, tuning=TuningSpec.model_validate(tuning))
    federation = whole_run(job, tmp_path / "run")
    bench = int8_workbench(job)
    expected = plain_federated(bench, job)
    for site in SITES:
        got = trainable_state(federation.models[site])
        assert got.keys() == expected.keys()
        moved = max(float((expected[n] - bench.initial[n]).abs().max()) for n in got)
        worst = max(float((got[n] - expected[n]).abs().max()) for n in got)
        # AdamW turns rounding in a tiny gradient into a part of a step; hence the room
        assert worst < 0.05 * moved, f"largest difference {worst}, largest movement {moved}"
    north, south = (adapter_file(federation, site).read_bytes() for site in SITES)
    assert north == south
    assert ("prompt_embeddings" in load_file(adapter_file(federation, SITES[0]))) == (
        "ptuning" in tuning
    )


@pytest.mark.parametrize("task", ["label-words", "causal-lm"])
def test_other_tasks_run_through(llama: Path, tmp_path: Path, task: str) -> None:
    model = ModelSpec.model_validate({"path": str(llama), "task": task})
    federation = whole_run(make_job(tmp_path, llama, model=model), tmp_path / "run")
    final = federation.of("final")[0]["sites"]
    assert {entry["outcome"] for entry in final.values()} == {"ok"}
    assert load_adapter(adapter_file(federation, "north").parent).fingerprint.task == task


@pytest.mark.parametrize("protect", ["adapter", "insecure-none"])
def test_other_levels_of_protection_run_through(llama: Path, tmp_path: Path, protect: str) -> None:
    protection = ProtectionSpec.model_validate({"protect": protect})
    federation = whole_run(make_job(tmp_path, llama, protection=protection), tmp_path / "run")
    assert federation.of("final")[0]["sites"]["south"]["outcome"] == "ok"


def test_pads_that_are_made_while_a_site_waits_change_no_byte(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, llama)
    straight = whole_run(job, tmp_path / "straight")
    sessions = []

    def resting(*given: Any, **options: Any) -> OffloadSession:
        sessions.append(OffloadSession(*given, **options, pad_budget=64))
        return sessions[-1]

    monkeypatch.setattr("tests.enclave.flow.OffloadSession", resting)
    ahead = whole_run(job, tmp_path / "ahead")
    assert len(sessions) == len(SITES)
    for site, session in zip(SITES, sessions, strict=True):
        assert adapter_file(ahead, site).read_bytes() == adapter_file(straight, site).read_bytes()
        pads = session._link.pads
        assert isinstance(pads, EnclavePads)
        assert pads._thread is not None  # it was woken between questions
        session.close()


def test_events_tell_the_whole_story(llama: Path, tmp_path: Path) -> None:
    federation = whole_run(make_job(tmp_path, llama), tmp_path / "run")
    rounds = federation.of("round", "server")
    assert [event["round"] for event in rounds] == [0, 1, 2]
    for event in rounds:
        assert list(event["sites"]) == list(SITES)
        for entry in event["sites"].values():
            assert entry["outcome"] == "ok"
            assert entry["bytes_up"] > 0
            assert set(entry["seconds"]) == {"enclave", "accelerator", "pads", "passes"}
    assert sum(entry["examples"] for entry in rounds[1]["sites"].values()) == 60
    assert all(0 < entry["train_loss"] < 10 for entry in rounds[1]["sites"].values())
    assert sum(entry["total"] for entry in rounds[0]["sites"].values()) == 24
    attested = federation.of("attested", "server")
    assert {(e["who"], e["confidential"]) for e in attested} == {("north", False), ("south", False)}
    assert federation.of("attested", "client:north")[0]["who"] == "server"
    assert [(e["round"], e["step"]) for e in federation.of("step", "client:north")] == [
        (r, i) for r in (1, 2) for i in (1, 2, 3)
    ]
    evaluated = federation.of("evaluated", "client:south")
    assert [e["round"] for e in evaluated] == [0, 2]
    assert federation.of("exported", "client:north")
    final = federation.of("final", "server")[0]
    assert final["round"] == 2
    assert final["sites"]["south"]["correct"] == evaluated[1]["correct"]


def test_the_network_sees_no_text_and_no_tensor(llama: Path, tmp_path: Path) -> None:
    federation = whole_run(make_job(tmp_path, llama), tmp_path / "run")
    adapter = adapter_file(federation, "north").read_bytes()
    traffic = b"".join(federation.wire)
    for canary in (b"lora_A", b"score.weight", b"train_loss", b"asthma", adapter[-64:]):
        assert canary not in traffic
    assert b"lora_A" in adapter  # so that this test can fail


@pytest.mark.parametrize("exchanges", [1, 3, 4, 5])
def test_a_resumed_run_gives_the_same_bytes(llama: Path, tmp_path: Path, exchanges: int) -> None:
    job = make_job(tmp_path, llama)
    straight = whole_run(job, tmp_path / "straight")
    broken = make_federation(job, tmp_path / "broken")
    broken.run(broken.aggregator(), exchanges=exchanges)
    resumed = make_federation(job, tmp_path / "broken")
    resumed.run(resumed.aggregator(resume=True))
    for site in SITES:
        expected = adapter_file(straight, site).read_bytes()
        assert adapter_file(resumed, site).read_bytes() == expected


def test_a_schedule_goes_over_all_rounds_resumed_or_not(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, train=SCHEDULED, job={"seed": 3, "rounds": 3})
    straight = whole_run(job, tmp_path / "straight")
    broken = make_federation(job, tmp_path / "broken")
    broken.run(broken.aggregator(), exchanges=ROUND_2)
    resumed = make_federation(job, tmp_path / "broken")
    resumed.run(resumed.aggregator(resume=True))
    bench = int8_workbench(job)
    expected = plain_federated(bench, job)
    for site in SITES:
        found = load_file(adapter_file(resumed, site))
        assert adapter_file(resumed, site).read_bytes() == adapter_file(straight, site).read_bytes()
        moved = max(float((expected[n] - bench.initial[n]).abs().max()) for n in found)
        assert max(float((t - expected[n]).abs().max()) for n, t in found.items()) < 0.05 * moved


def test_a_restarted_server_goes_on_with_the_same_sites(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    straight = whole_run(job, tmp_path / "straight")
    federation = make_federation(job, tmp_path / "run")
    federation.run(federation.aggregator(), exchanges=ROUND_1 + 1)  # round 1's answers get lost
    federation.run(federation.aggregator(resume=True))
    expected = adapter_file(straight, "south").read_bytes()
    assert adapter_file(federation, "south").read_bytes() == expected


def test_a_resumed_run_repeats_no_finished_round(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    broken = make_federation(job, tmp_path / "run")
    server = broken.aggregator()
    broken.run(server, exchanges=ROUND_1 + 1)
    server.next()  # takes round 1's result, and keeps it
    resumed = make_federation(job, tmp_path / "run")
    resumed.run(resumed.aggregator(resume=True))
    assert [event["round"] for event in resumed.of("round")] == [2]
    assert [event["round"] for event in resumed.of("evaluated", "client:north")] == [2]


def test_resuming_after_the_end_only_releases_again(llama: Path, tmp_path: Path) -> None:
    federation = whole_run(make_job(tmp_path, llama), tmp_path / "run")
    federation.events.clear()
    federation.run(federation.aggregator(resume=True))
    assert not federation.of("round")
    assert federation.of("final")


def test_resume_without_a_checkpoint_starts_anew(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")
    federation.run(federation.aggregator(resume=True))
    assert [event["round"] for event in federation.of("round")] == [0, 1, 2]


def test_a_checkpoint_that_was_altered_is_refused(llama: Path, tmp_path: Path) -> None:
    federation = whole_run(make_job(tmp_path, llama), tmp_path / "run")
    path = federation.run_dir / "state" / "checkpoint.sealed"
    sealed = bytearray(path.read_bytes())
    sealed[-20] ^= 1
    path.write_bytes(sealed)
    with pytest.raises(StorageError, match="does not open"):
        federation.aggregator(resume=True)


def test_a_checkpoint_of_another_job_is_refused(llama: Path, tmp_path: Path) -> None:
    whole_run(make_job(tmp_path, llama), tmp_path / "run")
    other = make_job(tmp_path, llama, job=JobSpec(name="tiny", seed=4, rounds=2))
    with pytest.raises(StorageError, match="does not open"):
        make_federation(other, tmp_path / "run").aggregator(resume=True)


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_lost_message_costs_one_round_and_a_new_handshake(
    llama: Path, tmp_path: Path, direction: str
) -> None:
    federation = make_federation(make_spare_job(tmp_path, llama), tmp_path / "run")

    def lossy(site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if (site, way, number) == ("south", direction, ROUND_1) else body

    federation.run(federation.aggregator(), network=lossy)
    rounds = federation.of("round")
    assert [event["sites"]["south"]["outcome"] for event in rounds] == ["ok", "late", "ok"]
    assert "deadline" in rounds[1]["sites"]["south"]["reason"]
    assert [event["sites"]["north"]["outcome"] for event in rounds] == ["ok"] * 3
    who = [event["who"] for event in federation.of("attested", "server")]
    assert who.count("south") == 2


def test_a_repeated_message_is_answered_with_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")

    def twice(site: str, way: str, _number: int, body: bytes) -> bytes:
        if way == "down":
            first = federation.sites[site].deliver(body)
            assert federation.sites[site].deliver(body) == first
        return body

    federation.run(federation.aggregator(), network=twice)
    assert len(federation.of("step", "client:north")) == 6  # nothing was trained twice


def test_an_altered_message_is_refused_and_named(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_spare_job(tmp_path, llama), tmp_path / "run")

    def flip(site: str, way: str, number: int, body: bytes) -> bytes:
        if (site, way, number) != ("south", "up", ROUND_1):
            return body
        return body[:300] + bytes([body[300] ^ 1]) + body[301:]

    federation.run(federation.aggregator(), network=flip)
    entry = federation.of("round")[1]["sites"]["south"]
    assert entry["outcome"] == "failed"
    assert "altered" in entry["reason"]
    assert federation.of("round")[2]["sites"]["south"]["outcome"] == "ok"


def test_fewer_sites_than_the_quorum_end_the_run(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    federation = make_federation(job, tmp_path / "run")
    with pytest.raises(
        SiteLostError,
        match="only 1 of 2 sites finished round 2; needed",
    ):
        federation.run(
            federation.aggregator(),
            network=lambda site, _way, number, body: (
                None if (site, number) == ("south", ROUND_2) else body
            ),
        )
    assert federation.of("round")[-1]["sites"]["south"]["outcome"] == "late"
    federation.events.clear()
    federation.run(federation.aggregator(resume=True))
    assert [event["round"] for event in federation.of("round")] == [2]


def test_a_site_that_never_answers_is_left_out(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_spare_job(tmp_path, llama), tmp_path / "run")
    federation.run(
        federation.aggregator(),
        network=lambda site, _way, _number, body: None if site == "south" else body,
    )
    outcomes = [event["sites"]["south"]["outcome"] for event in federation.of("round")]
    assert outcomes == ["late"] * 3
    assert federation.of("final")[0]["sites"]["north"]["outcome"] == "ok"


def test_a_diverging_site_says_why(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_spare_job(tmp_path, llama), tmp_path / "run")
    norm = federation.models["south"].get_base_model().model.norm
    with torch.no_grad():
        norm.weight.fill_(float("nan"))
    federation.run(federation.aggregator())
    entry = federation.of("round")[1]["sites"]["south"]
    assert entry["outcome"] == "failed"
    assert "the loss is nan at step 1" in entry["reason"]


def test_an_outcome_counts_once(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")
    server = federation.aggregator()
    outgoing = server.next() or {}
    answer = federation.sites["north"].deliver(outgoing["north"])
    server.reply("north", answer)
    for call in (lambda: server.reply("north", answer), lambda: server.absent("nobody", "")):
        with pytest.raises(Exception, match="nothing was asked"):
            call()


def test_a_model_that_was_exchanged_is_noticed(llama: Path, tmp_path: Path) -> None:
    from tests.model.tiny import make_llama

    model = make_llama(tmp_path / "model", seed=1)
    parties = sign_job(make_job(tmp_path, model), tmp_path / "run")
    admitted = admit_party(parties["north"])
    make_llama(model, seed=2)
    with pytest.raises(DigestMismatchError, match="these differ: model"):
        admit_party(parties["north"])
    assert load_model(admitted.job.model, 3) is not None


def test_enclaves_prove_themselves_anew_each_epoch(llama: Path, tmp_path: Path) -> None:
    job = make_job(
        tmp_path,
        llama,
        job=JobSpec(name="tiny", seed=3, rounds=6),
        train=TrainSpec(steps_per_round=1, batch_size=4, learning_rate=5e-3),
    )
    federation = make_federation(job, tmp_path / "run")
    assert federation.resolved.manifest.epoch == 5
    federation.run(federation.aggregator())
    for site in job.sites.names:
        by_server = [e for e in federation.of("attested") if e["who"] == site]
        by_site = [e for e in federation.of("attested") if e["by"] == site]
        assert len(by_server) == len(by_site) == 2  # at the start, and after round 5


def test_texts_that_are_cut_are_counted_aloud(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama)
    job = job.model_copy(update={"data": job.data.model_copy(update={"max_tokens": 4})})
    federation = make_federation(job, tmp_path / "run")
    told = federation.of("warning")
    assert {(e["site"], e["part"]) for e in told} == {
        (site, part) for site in job.sites.names for part in ("training", "test")
    }
    assert all(0 < e["count"] <= e["of"] for e in told)


def test_checkpointing_changes_nothing_but_the_number_of_products(
    llama: Path, tmp_path: Path
) -> None:
    """Whatever is computed again has fresh pads; with dropout, which is drawn as before."""
    losses = []
    for checkpointing in (False, True):
        train = TrainSpec(
            steps_per_round=3, batch_size=4, learning_rate=5e-3, checkpointing=checkpointing
        )
        folder = tmp_path / str(checkpointing)
        folder.mkdir()
        tuning = TuningSpec(rank=4, dropout=0.2)
        federation = whole_run(make_job(folder, llama, train=train, tuning=tuning), folder / "run")
        losses.append([event["loss"] for event in federation.of("step")])
    assert losses[0] == losses[1]
