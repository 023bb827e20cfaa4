"""Tuned parts that stay at their site, and sites that a round does without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save
from torch import Tensor

from sealtune.baseline.workbench import weighted_mean
from sealtune.errors import ConfigError, StorageError
from sealtune.frames import Frame
from sealtune.job.sections import NetworkSpec, ProtectionSpec, SitesSpec
from sealtune.launch.parties import admit_party
from sealtune.methods.federated.participation import asked_in
from sealtune.methods.federated.personal import PersonalParts
from sealtune.party.reopening import check_reopening
from sealtune.party.site_program import Worker
from sealtune.plan.resolve import resolve
from sealtune.tuning.folder import load_adapter, read_fingerprint
from tests.enclave.flow import SITES, Federation, make_federation, make_job, make_spare_job
from tests.enclave.test_federation import (
    ROUND_1,
    ROUND_2,
    WEIGHTS,
    adapter_file,
    int8_workbench,
    whole_run,
)

HEAD = "base_model.model.score.weight"
PERSONAL = {"personal": ["head", "layers.1"]}


def is_personal(name: str) -> bool:
    return name == HEAD or ".layers.1." in name


def sealed_file(federation: Federation, site: str) -> Path:
    return federation.run_dir / "sites" / site / "state" / "checkpoint.sealed"


class Told:
    """A site's enclave whose answers are seen, and maybe changed, before they are sealed."""

    def __init__(self, worker: Worker, change: Any = lambda answer: answer) -> None:
        self._worker, self._change = worker, change
        self.updates: list[dict[str, Tensor]] = []

    def answer(self, question: Frame) -> Frame:
        answer = self._worker.answer(question)
        if question.kind == "train":
            self.updates.append(load(bytes(answer.body)))
            return self._change(answer)  # type: ignore[no-any-return]
        return answer


def test_personal_tensors_are_in_no_update_and_in_the_export(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_job(tmp_path, llama, aggregation=PERSONAL), tmp_path / "run")
    told = {site: Told(program._worker) for site, program in federation.sites.items()}
    for site, program in federation.sites.items():
        program._worker = told[site]
    federation.run(federation.aggregator())
    plan = federation.resolved.manifest.plan
    assert set(plan.personal) == {name for name in plan.trainable if is_personal(name)}
    for worker in told.values():
        assert [set(update) for update in worker.updates] == [set(plan.shared)] * 2
    north, south = (load_file(adapter_file(federation, site)) for site in SITES)
    assert set(north) == set(south) == set(plan.trainable)
    for name in plan.trainable:
        assert torch.equal(north[name], south[name]) is not is_personal(name), name
    fingerprint = read_fingerprint(adapter_file(federation, "north").parent)
    assert (fingerprint.site, fingerprint.personal) == ("north", ("head", "layers.1"))


def test_the_result_is_that_of_averaging_what_is_shared(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, aggregation=PERSONAL)
    federation = whole_run(job, tmp_path / "run")
    bench = int8_workbench(job)
    states = dict.fromkeys(bench.sites, bench.initial)
    weights = [len(data.train) for data in bench.sites.values()]
    for number in range(1, job.job.rounds + 1):
        states = {
            site: bench.train(
                states[site], data.train, round=number, site=site, steps=3, on_step=lambda _: None
            )[0]
            for site, data in bench.sites.items()
        }
        mean = weighted_mean(list(states.values()), weights)
        states = {
            site: {n: own if is_personal(n) else mean[n] for n, own in state.items()}
            for site, state in states.items()
        }
    for site in SITES:
        got, expected = load_file(adapter_file(federation, site)), states[site]
        moved = max(float((expected[n] - bench.initial[n]).abs().max()) for n in got)
        worst = max(float((got[n] - expected[n]).abs().max()) for n in got)
        assert worst < 0.05 * moved, f"largest difference {worst}, largest movement {moved}"


def test_a_site_that_sends_a_personal_tensor_is_refused(llama: Path, tmp_path: Path) -> None:
    job = make_spare_job(tmp_path, llama, aggregation={"personal": ["head"]})
    federation = make_federation(job, tmp_path / "run")
    south = federation.sites["south"]
    head = federation.models["south"].base_model.model.score

    def add_head(answer: Frame) -> Frame:
        tensors = {**load(bytes(answer.body)), HEAD: next(head.parameters()).detach().clone()}
        return replace(answer, body=save(tensors))

    south._worker = Told(south._worker, add_head)
    federation.run(federation.aggregator())
    for event in federation.of("round")[1:]:
        assert "tensors missing or unknown" in event["sites"]["south"]["reason"]
        assert event["sites"]["north"]["outcome"] == "ok"


def test_a_server_that_sends_a_personal_tensor_is_refused(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_job(tmp_path, llama, aggregation=PERSONAL), tmp_path / "run")
    worker = federation.sites["north"]._worker
    own = federation.models["north"].base_model.model.score
    before = next(own.parameters()).detach().clone()
    every = {n: torch.zeros(s) for n, s in federation.resolved.manifest.plan.trainable.items()}
    with pytest.raises(Exception, match=r"has \d+ tensors too many"):
        worker.answer(Frame("train", {"round": 1, "trained": 0}, save(every)))
    assert torch.equal(next(own.parameters()), before)


@pytest.mark.parametrize("exchanges", [ROUND_1, ROUND_1 + 1, ROUND_2, ROUND_2 + 1])
@pytest.mark.parametrize("lost", [False, True])
def test_a_resumed_run_gives_the_same_bytes(
    llama: Path, tmp_path: Path, exchanges: int, lost: bool
) -> None:
    """All enclaves are started anew; ``lost``: the server has not seen the last answers."""
    job = make_job(tmp_path, llama, aggregation=PERSONAL)
    straight = whole_run(job, tmp_path / "straight")
    broken = make_federation(job, tmp_path / "broken")
    server = broken.aggregator()
    broken.run(server, exchanges=exchanges)
    if not lost:
        server.next()  # it closes the round
    resumed = make_federation(job, tmp_path / "broken")
    resumed.run(resumed.aggregator(resume=True))
    for site in SITES:
        assert adapter_file(resumed, site).read_bytes() == adapter_file(straight, site).read_bytes()


def test_a_restarted_site_goes_on_with_its_own_parts(llama: Path, tmp_path: Path) -> None:
    job = make_spare_job(tmp_path, llama, aggregation=PERSONAL)
    straight = whole_run(job, tmp_path / "straight")
    federation = make_federation(job, tmp_path / "run")
    server = federation.aggregator()
    federation.run(server, exchanges=ROUND_1 + 1)
    restarted = make_federation(job, tmp_path / "run")
    restarted.run(restarted.aggregator(resume=True))
    expected = load_file(adapter_file(straight, "south"))
    found = load_file(adapter_file(restarted, "south"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def stopped_after_round_1(job: Any, run_dir: Path) -> Federation:
    federation = make_federation(job, run_dir)
    server = federation.aggregator()
    federation.run(server, exchanges=ROUND_1 + 1)
    server.next()
    return federation


@pytest.mark.parametrize("attack", ["deleted", "put back"])
def test_parts_that_were_lost_or_put_back_are_noticed(
    llama: Path, tmp_path: Path, attack: str
) -> None:
    job = make_spare_job(tmp_path, llama, aggregation=PERSONAL, job={"seed": 3, "rounds": 4})
    federation = make_federation(job, tmp_path / "run")
    server, path = federation.aggregator(), sealed_file(federation, "south")
    federation.run(server, exchanges=ROUND_1 + 1)
    old = path.read_bytes()
    federation.run(server, exchanges=2)
    server.next()
    if attack == "deleted":
        path.unlink()
    else:
        path.write_bytes(old)
    resumed = make_federation(job, tmp_path / "run")
    resumed.run(resumed.aggregator(resume=True))
    entry = resumed.of("round")[0]["sites"]["south"]
    assert entry["outcome"] == "failed"
    assert "personal parts of round" in entry["reason"]


def test_a_run_that_is_begun_anew_takes_nothing_from_the_one_before(tmp_path: Path) -> None:
    """Not even where the site misses the first round."""
    job = SimpleNamespace(
        plan=SimpleNamespace(personal=("head",)),
        settings=SimpleNamespace(protection=ProtectionSpec()),
        state_folder=tmp_path,
        sealing_key=bytes(32),
        job_id="00" * 48,
        site="south",
    )
    first = {"head": torch.zeros(3)}
    before = PersonalParts(job, first)  # type: ignore[arg-type]
    before.keep(1, {"head": torch.ones(3)})
    assert before.after(1, trained=1)["head"].sum() == 3
    anew = PersonalParts(job, first)  # type: ignore[arg-type]
    assert anew.after(0, trained=0)["head"].sum() == 0  # for the first evaluation
    assert anew.after(1, trained=0)["head"].sum() == 0


def test_another_sites_parts_do_not_open(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, aggregation=PERSONAL)
    federation = stopped_after_round_1(job, tmp_path / "run")
    sealed_file(federation, "south").write_bytes(sealed_file(federation, "north").read_bytes())
    with pytest.raises(StorageError, match="does not open"):
        federation.start_site("south")


def test_what_is_sealed_shows_nothing(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, aggregation=PERSONAL)
    federation = whole_run(job, tmp_path / "run")
    sealed = sealed_file(federation, "north").read_bytes()
    head = load_file(adapter_file(federation, "north"))[HEAD].numpy().tobytes()
    assert b"score" not in sealed
    assert head[:64] not in sealed


def test_a_job_without_personal_parts_seals_nothing_at_sites(llama: Path, tmp_path: Path) -> None:
    federation = whole_run(make_job(tmp_path, llama), tmp_path / "run")
    assert not sealed_file(federation, "north").exists()
    assert admit_party(federation.parties["north"]).sealing_key == b""


def test_a_tee_without_a_lasting_key_is_refused() -> None:
    protection = ProtectionSpec(attestation={"server": "simulated", "site": "tdx"})
    check_reopening(protection)
    with pytest.raises(StorageError, match="TDX guest has no sealing key"):
        check_reopening(protection, "site")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["layers.7"], "names 'layers.7', in which nothing is tuned; parts are head, layers.0"),
        (["head", "layers.0", "layers.1"], "names all that is tuned"),
    ],
)
def test_parts_that_cannot_be_are_refused_before_anything_starts(
    llama: Path, tmp_path: Path, parts: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(make_job(tmp_path, llama, aggregation={"personal": parts}))


@pytest.mark.parametrize("part", ["layer.1", "layers.01", "Head", "layers.1.q_proj"])
def test_what_is_no_part_is_refused_with_the_settings(tmp_path: Path, part: str) -> None:
    with pytest.raises(ValueError, match='a part is "head", or a block'):
        make_job(tmp_path, tmp_path, aggregation={"personal": [part]})


def test_an_own_adapter_goes_on_from_the_joint_one(llama: Path, tmp_path: Path) -> None:
    joint = whole_run(make_job(tmp_path, llama), tmp_path / "joint")
    job = make_job(tmp_path, llama, aggregation={"personal_steps": 5})
    federation = whole_run(job, tmp_path / "run")
    bench = int8_workbench(job)
    told = {e["role"]: e for e in federation.of("personal")}
    for site in SITES:
        state = load_file(adapter_file(federation, site))
        expected = load_file(adapter_file(joint, site))
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
        folder = federation.run_dir / "sites" / site / "adapter-personal"
        print_ = read_fingerprint(folder)
        assert (print_.site, print_.personal_steps) == (site, 5)
        assert read_fingerprint(adapter_file(federation, site).parent).personal_steps == 0
        own, _ = bench.train(
            state, bench.sites[site].train, round=3, site=site, steps=5, first=6, decays=True,
            on_step=lambda _: None,
        )  # fmt: skip
        got = load_file(folder / WEIGHTS)
        moved = max(float((own[n] - state[n]).abs().max()) for n in got)
        assert max(float((got[n] - own[n]).abs().max()) for n in got) < 0.05 * moved
        assert load_adapter(folder).fingerprint == print_
        event = told[f"client:{site}"]
        signed = federation.resolved.manifest.data[site]
        assert (event["steps"], event["total"]) == (5, signed.test_rows)
    assert "personal" not in json.dumps(federation.of("final"))  # a site's own affair


def test_who_is_not_asked_does_not_train_and_gets_the_result(llama: Path, tmp_path: Path) -> None:
    sites = SitesSpec(names=(*SITES, "west"), partition="dirichlet", alpha=5.0)
    sections: dict[str, Any] = {
        "sites": sites,
        "network": NetworkSpec(),
        "aggregation": {"participation": 0.6},
        "job": {"seed": 3, "rounds": 6},
        "train": {"steps_per_round": 1, "batch_size": 4, "learning_rate": 5e-3},
    }
    job = make_job(tmp_path, llama, **sections)
    federation = make_federation(job, tmp_path / "run")
    federation.run(federation.aggregator())
    manifest = federation.resolved.manifest
    for event in federation.of("round")[1:]:
        asked = asked_in(manifest, event["round"])
        assert len(asked) == 2
        for site, entry in event["sites"].items():
            assert entry["outcome"] == ("ok" if site in asked else "not asked")
            assert entry["reason"] == ""
    left_out = {
        s for e in federation.of("round") for s, x in e["sites"].items() if x["outcome"] != "ok"
    }
    assert len(left_out) > 1
    steps = {(e["role"], e["round"]) for e in federation.of("step")}
    assert steps == {(f"client:{s}", r) for r in range(1, 7) for s in asked_in(manifest, r)}
    adapters = {adapter_file(federation, site).read_bytes() for site in job.sites.names}
    assert len(adapters) == 1
    # after round 5 all prove themselves anew before they go on, whoever was asked in round 6
    for site in job.sites.names:
        assert len([e for e in federation.of("attested") if e["who"] == site]) == 2


def test_a_resumed_run_asks_the_same_sites(llama: Path, tmp_path: Path) -> None:
    sites = SitesSpec(names=(*SITES, "west"), partition="dirichlet", alpha=5.0)
    sections: dict[str, Any] = {
        "sites": sites,
        "aggregation": {"participation": 0.6, "personal": ["head"]},
        "job": {"seed": 3, "rounds": 4},
    }
    job = make_job(tmp_path, llama, **sections)
    straight = whole_run(job, tmp_path / "straight")
    broken = make_federation(job, tmp_path / "broken")
    broken.run(broken.aggregator(), exchanges=ROUND_2 + 1)
    resumed = make_federation(job, tmp_path / "broken")
    resumed.run(resumed.aggregator(resume=True))
    for site in job.sites.names:
        assert adapter_file(resumed, site).read_bytes() == adapter_file(straight, site).read_bytes()
