"""Jobs under secure aggregation end to end in one process: what comes out, and who may be lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from sealtune.errors import SecureAggregationError, SiteLostError
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.first_values import first_adapter
from sealtune.job.sections import LoraSpec, PtuningSpec, TrainSpec, TuningSpec
from sealtune.job.spec import ModelSpec
from sealtune.methods.federated.adapter import read_adapter
from sealtune.secure_sum.ring import Vector
from tests.enclave.sum_flow import FIVE, SumFederation, make_sum, make_sum_job

Tensors = Mapping[str, NDArray[np.float32]]
# exchanges of one sum, once there are channels; the first has two more for the handshake
HANDSHAKE, STEPS = 2, 5


def adapter(federation: SumFederation, site: str = "north") -> dict[str, NDArray[np.float32]]:
    file = federation.run_dir / "sites" / site / "adapter" / "adapter_model.safetensors"
    found: dict[str, NDArray[np.float32]] = load_file(file)
    return found


class Watch:
    """Keeps what each site would have sent without masks."""

    def __init__(self, federation: SumFederation) -> None:
        self.plain: dict[tuple[int, str], tuple[Vector, Tensors, Tensors]] = {}
        for site, worker in federation.workers.items():
            self._watch(site, worker)

    def _watch(self, site: str, worker: Any) -> None:
        honest, shapes = worker._trainer.answer, worker._admitted.plan.trainable

        def answer(question: Any) -> Any:
            reply = honest(question)
            if question.kind == "train":
                pair = [read_adapter(bytes(f.body), shapes) for f in (question, reply)]
                vector = worker._vectors.of_training(site, *pair, reply.meta["train_loss"])
                self.plain[worker._number, site] = vector, pair[0], pair[1]
            return reply

        worker._trainer.answer = answer


def test_the_result_is_the_weighted_mean_and_no_single_update_is_seen(
    llama: Path, tmp_path: Path
) -> None:
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")
    watch = Watch(federation)
    federation.run(federation.server())
    manifest = federation.resolved.manifest
    rows = {site: manifest.data[site].train_rows for site in FIVE}
    settings, plan = manifest.settings, manifest.plan
    now: Tensors = first_adapter(plan.first_values, plan.trainable, settings.job.seed)
    for number in (1, 2):
        means = {}
        for name in now:
            changes = [
                (watch.plain[number, site][2][name].astype(float) - now[name]) * rows[site]
                for site in FIVE
            ]
            means[name] = np.sum(changes, axis=0) / sum(rows.values())
            for site in FIVE:
                assert np.array_equal(watch.plain[number, site][1][name], now[name])
        now = {name: (now[name] + means[name]).astype(np.float32) for name in now}
    released = adapter(federation)
    assert released.keys() == now.keys()
    for name, tensor in released.items():
        assert np.abs(tensor - now[name]).max() <= np.spacing(np.abs(now[name]).max())
    for site in FIVE[1:]:
        assert all(np.array_equal(released[n], t) for n, t in adapter(federation, site).items())
    seen = b"".join(federation.wire)
    for vector, _, after in watch.plain.values():
        assert vector[:64].tobytes() not in seen
        assert next(iter(after.values())).tobytes()[:256] not in seen


def test_rounds_tell_totals_and_nothing_of_single_sites(llama: Path, tmp_path: Path) -> None:
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")
    federation.run(federation.server())
    events = [*federation.of("round", "server"), *federation.of("final", "server")]
    assert [event["round"] for event in events] == [0, 1, 2, 2]
    tests = sum(one.test_rows for one in federation.resolved.manifest.data.values())
    own = {site: federation.of("evaluated", f"client:{site}") for site in FIVE}
    for event, at in ((events[0], 0), (events[-1], -1)):
        assert event["total"] == tests
        assert event["correct"] == sum(own[site][at]["correct"] for site in FIVE)
        loss = sum(own[s][at]["loss"] * own[s][at]["total"] for s in FIVE) / tests
        assert event["loss"] == pytest.approx(loss, rel=1e-9)
    for event in events:
        for line in event["sites"].values():
            assert not {"correct", "total", "loss", "train_loss"} & line.keys()
    for event in events[1:3]:
        assert event["trained_moved"] is event["frozen_unchanged"] is True
        assert 0 < event["train_loss"] < 10


@pytest.mark.parametrize("step", range(STEPS))
def test_one_of_five_is_lost_in_the_first_round(llama: Path, tmp_path: Path, step: int) -> None:
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")
    lost_at = HANDSHAKE + STEPS + step  # of the sum of round 1

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if site == "west" and number == lost_at else body

    federation.run(federation.server(), network=network)
    first, second = federation.of("round", "server")[1:]
    assert first["sites"]["west"]["outcome"] == "late"
    assert [line["outcome"] for site, line in first["sites"].items() if site != "west"] == [
        "ok"
    ] * 4
    assert {line["outcome"] for line in second["sites"].values()} == {"ok"}
    assert all(
        np.array_equal(t, adapter(federation)[n]) for n, t in adapter(federation, "west").items()
    )


def test_two_of_five_are_too_many_and_resume_goes_on(llama: Path, tmp_path: Path) -> None:
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        away = site in ("west", "south") and number >= HANDSHAKE + STEPS + 2
        return None if away else body

    with pytest.raises(SiteLostError, match=r"only 3 of 5 sites saw step 'vector' of round 1"):
        federation.run(federation.server(), network=network)
    for site in FIVE:
        federation.start_site(site)
    federation.run(federation.server(resume=True))
    assert [e["round"] for e in federation.of("round", "server")] == [0, 1, 1, 2]
    assert federation.of("final", "server")


def test_a_sum_whose_unmasking_had_begun_is_not_asked_for_again(
    llama: Path, tmp_path: Path
) -> None:
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")
    # the server stops after it has asked for the shares of round 1
    federation.run(federation.server(), exchanges=HANDSHAKE + 2 * STEPS)
    assert len(federation.of("round", "server")) == 1
    federation.run(federation.server(resume=True))
    assert [e["round"] for e in federation.of("round", "server")] == [0, 2]
    assert {line["outcome"] for line in federation.of("final")[0]["sites"].values()} == {"ok"}


def test_each_site_clips_its_own_update(llama: Path, tmp_path: Path) -> None:
    bound = 1e-3
    aggregation = AggregationSpec(norm_bound=bound)
    job = make_sum_job(tmp_path, llama, aggregation=aggregation)
    federation = make_sum(job, tmp_path / "run")
    watch = Watch(federation)
    federation.run(federation.server())
    vectors = federation.last_server._vectors
    rows = {site: federation.resolved.manifest.data[site].train_rows for site in FIVE}
    for (_, site), (vector, before, after) in watch.plain.items():
        trained = [(after[n] - before[n]).ravel() for n in before]
        assert np.linalg.norm(np.concatenate(trained)) > 2 * bound
        changes = vectors._changes.mean(vector[:-1], rows[site])
        assert np.linalg.norm(changes) == pytest.approx(bound, rel=1e-6)


def test_a_site_that_was_restarted_in_a_round_is_left_out_of_it(
    llama: Path, tmp_path: Path
) -> None:
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        if (site, way, number) == ("west", "down", HANDSHAKE + STEPS + 1):
            federation.start_site("west")
        return body

    federation.run(federation.server(), network=network)
    first = federation.of("round", "server")[1]["sites"]["west"]
    assert first["outcome"] == "failed"
    assert federation.of("final")[0]["sites"]["west"]["outcome"] == "ok"


def test_a_run_from_the_start_of_the_same_job_is_refused(llama: Path, tmp_path: Path) -> None:
    """The same manifest once more, with one site less: the difference would be that site's."""
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")
    federation.run(federation.server())

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if site == "west" else body

    for site in FIVE:
        federation.start_site(site)
    with pytest.raises(SiteLostError, match="shares for sum 3 were given"):
        federation.run(federation.server(), network=network)


def test_an_update_out_of_all_range_is_refused_at_the_site(llama: Path, tmp_path: Path) -> None:
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")
    federation.workers["west"]._vectors._changes._limit = 1e-9
    federation.run(federation.server())
    line = federation.of("round", "server")[1]["sites"]["west"]
    assert line["outcome"] == "failed"
    assert "a number to be summed is not finite, or beyond" in line["reason"]


def test_wrong_shares_end_the_job_and_give_no_wrong_adapter(llama: Path, tmp_path: Path) -> None:
    """One site's shares are wrong while another is away: what is left opens nothing."""
    federation = make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")
    worker = federation.workers["west"]
    honest = worker._steps["unmask"]

    def lie(member: Any, question: Any) -> Any:
        reply = honest(member, question)
        return type(reply)(reply.kind, reply.meta, bytes(len(reply.body)))

    worker._steps["unmask"] = lie

    def network(site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if site == "east" and number == HANDSHAKE + STEPS - 1 else body

    with pytest.raises(SecureAggregationError, match="wrong shares"):
        federation.run(federation.server(), network=network)
    assert not federation.of("round", "server")


def test_virtual_tokens_are_summed_as_adapters_are(llama: Path, tmp_path: Path) -> None:
    tuning = TuningSpec(ptuning=PtuningSpec(virtual_tokens=3))
    federation = make_sum(make_sum_job(tmp_path, llama, tuning=tuning), tmp_path / "run")
    federation.run(federation.server())
    first, last = federation.of("round", "server")[0], federation.of("final", "server")[0]
    assert last["total"] == first["total"]
    assert {line["outcome"] for line in last["sites"].values()} == {"ok"}
    assert all(event["trained_moved"] for event in federation.of("round", "server")[1:])


def whole_run(folder: Path, llama: Path, **sections: Any) -> SumFederation:
    folder.mkdir()
    federation = make_sum(make_sum_job(folder, llama, **sections), folder / "run")
    federation.run(federation.server())
    return federation


def far(one: Tensors, other: Tensors) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_server_optimizers_and_proximal_terms_act(llama: Path, tmp_path: Path) -> None:
    plain = adapter(whole_run(tmp_path / "plain", llama))
    momentum = AggregationSpec(norm_bound="none", server_optimizer="fedavgm")
    moved = adapter(whole_run(tmp_path / "momentum", llama, aggregation=momentum))
    held = AggregationSpec(norm_bound="none", proximal=100.0)
    near = adapter(whole_run(tmp_path / "held", llama, aggregation=held))
    assert far(plain, moved) > 1e-3
    assert far(plain, near) > 1e-4


def test_a_server_optimizers_means_survive_a_restart(llama: Path, tmp_path: Path) -> None:
    momentum = AggregationSpec(norm_bound="none", server_optimizer="fedavgm")
    straight = adapter(whole_run(tmp_path / "straight", llama, aggregation=momentum))
    job = make_sum_job(tmp_path, llama, aggregation=momentum)
    federation = make_sum(job, tmp_path / "run")
    federation.run(federation.server(), exchanges=HANDSHAKE + 2 * STEPS + 1)
    assert [event["round"] for event in federation.of("round", "server")] == [0, 1]
    federation.run(federation.server(resume=True))
    broken = adapter(federation)
    assert far(straight, broken) == 0


def test_each_site_goes_on_for_itself(llama: Path, tmp_path: Path) -> None:
    own = AggregationSpec(norm_bound="none", personal_steps=2)
    federation = whole_run(tmp_path / "own", llama, aggregation=own)
    for site in FIVE:
        folder = federation.run_dir / "sites" / site
        joint, personal = (load_file(folder / name / "adapter_model.safetensors")
                           for name in ("adapter", "adapter-personal"))  # fmt: skip
        assert far(joint, personal) > 1e-4


def test_tokens_of_a_causal_model_are_counted(llama: Path, tmp_path: Path) -> None:
    model = ModelSpec.model_validate({"path": str(llama), "task": "causal-lm"})
    federation = whole_run(tmp_path / "causal", llama, model=model)
    own = [federation.of("evaluated", f"client:{site}")[-1] for site in FIVE]
    last = federation.of("final", "server")[0]
    assert last["total"] == sum(event["total"] for event in own) > 100
    assert last["correct"] == sum(event["correct"] for event in own)


def test_lora_plus_may_move_b_as_far_as_its_own_rate_takes_it(llama: Path, tmp_path: Path) -> None:
    tuning = TuningSpec(lora=LoraSpec(rank=2, learning_rate_ratio=1000))
    train = TrainSpec(steps_per_round=2, batch_size=4, learning_rate=1e-5)
    federation = make_sum(make_sum_job(tmp_path, llama, tuning=tuning, train=train), tmp_path / "r")
    watch = Watch(federation)
    federation.run(federation.server())
    moved = [
        float(np.abs(after[n] - before[n]).max() / train.learning_rate / train.steps_per_round)
        for _, before, after in watch.plain.values()
        for n in before
        if ".lora_B." in n
    ]
    assert max(moved) > 600  # learning rates in a step
