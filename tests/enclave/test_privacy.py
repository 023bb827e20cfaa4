"""Differential privacy in whole jobs: the budget, what leaves, and who tries to get around it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, load_file

from sealtune.errors import RollbackError, SiteLostError
from sealtune.frames import Frame
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.sections import JobSpec, NetworkSpec, ProtectionSpec, TrainSpec
from sealtune.privacy.noise import NoiseStream
from tests.enclave.flow import SITES, Federation, make_federation, make_job, make_spare_job

SITE, EXAMPLE = "site", "example"
BUDGET = 4.3
# exchanges of a run: 0 challenge, 1 key, 2 evaluation, 3 round 1, 4 round 2
ROUND_1, ROUND_2 = 3, 4
UNITS = pytest.mark.parametrize("unit", [SITE, EXAMPLE])
TRAIN = TrainSpec(steps_per_round=2, batch_size=4, learning_rate=5e-3)


def private(
    folder: Path,
    base: Path,
    unit: str,
    *,
    rounds: int = 3,
    protect: str = "adapter+data",
    **privacy: Any,
) -> Federation:
    """A job whose noise is worked out for all of its rounds."""
    spec = PrivacySpec.model_validate({"unit": unit, "epsilon": 6.0, **privacy})
    protection = ProtectionSpec.model_validate({"protect": protect})
    named = JobSpec(name="tiny", rounds=rounds)
    job = make_job(folder, base, privacy=spec, train=TRAIN, job=named, protection=protection)
    return make_federation(job, folder / "run")


def short(folder: Path, base: Path, unit: str) -> tuple[Federation, int]:
    """A job of five rounds with noise for two or three."""
    noise = {SITE: 2.0, EXAMPLE: 1.0}[unit]
    federation = private(folder, base, unit, rounds=5, noise_multiplier=noise, epsilon=BUDGET)
    allowed = federation.resolved.manifest.rounds
    assert 1 < allowed < 5
    return federation, allowed


def spent(federation: Federation) -> list[tuple[int, float, bool]]:
    return [(e["round"], e["epsilon"], e["ended"]) for e in federation.of("privacy")]


def trained(federation: Federation, site: str = "north") -> list[int]:
    """Rounds in which a site has trained."""
    phases = federation.of("phase", f"client:{site}")
    return [event["round"] for event in phases if event["phase"] == "train"]


@UNITS
def test_a_job_within_its_budget(llama: Path, tmp_path: Path, unit: str) -> None:
    federation = private(tmp_path, llama, unit)
    federation.run(federation.aggregator())
    dp = federation.resolved.manifest.dp
    assert dp is not None
    assert spent(federation) == [(n, dp.spent(n), False) for n in (1, 2, 3)]
    assert 5.9 < dp.spent(3) <= 6.0
    assert {e["outcome"] for e in federation.of("final")[0]["sites"].values()} == {"ok"}


@UNITS
def test_a_budget_of_k_rounds_gives_exactly_k_releases(
    llama: Path, tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training ends before the budget is exceeded, in good order, with the last adapter."""
    federation, allowed = short(tmp_path, llama, unit)
    drawn: list[int] = []
    honest = NoiseStream.steps
    monkeypatch.setattr(
        NoiseStream, "steps", lambda self, n, d: drawn.append(n) or honest(self, n, d)
    )
    federation.run(federation.aggregator())
    rounds = range(1, allowed + 1)
    told = spent(federation)
    assert [entry[0] for entry in told] == [*rounds, allowed]
    assert [entry[2] for entry in told] == [False] * allowed + [True]
    assert max(entry[1] for entry in told) <= BUDGET
    assert trained(federation) == list(rounds)
    final = federation.of("final")[0]
    assert final["round"] == allowed
    assert {entry["outcome"] for entry in final["sites"].values()} == {"ok"}
    tensors = len(federation.resolved.plan.trainable)
    steps = 1 if unit == SITE else 2 * len(SITES)
    assert len(drawn) == allowed * tensors * steps
    for site in SITES:
        assert (federation.run_dir / "sites" / site / "adapter").is_dir()


@UNITS
@pytest.mark.parametrize("exchanges", [ROUND_1 + 1, ROUND_2 + 1])
def test_a_resumed_job_has_spent_what_an_uninterrupted_one_has(
    llama: Path, tmp_path: Path, unit: str, exchanges: int
) -> None:
    """Its server dies in the middle of a round; all that was noised in it is lost with it."""
    federation, allowed = short(tmp_path, llama, unit)
    federation.run(federation.aggregator(), exchanges=exchanges)
    for site in SITES:
        federation.start_site(site)
    federation.run(federation.aggregator(resume=True))
    dp = federation.resolved.manifest.dp
    assert dp is not None
    assert spent(federation) == [
        *((n, dp.spent(n), False) for n in range(1, allowed + 1)),
        (allowed, dp.spent(allowed), True),
    ]
    assert federation.of("final")[0]["round"] == allowed


@UNITS
def test_resuming_resets_nothing(llama: Path, tmp_path: Path, unit: str) -> None:
    """Attack: the operator stops the server after each round to get a fresh budget. A round whose
    noise is in the checkpoint is paid for, even if nobody was told of it.
    """
    federation, allowed = short(tmp_path, llama, unit)
    for number in range(1, allowed + 2):
        server = federation.aggregator(resume=number > 1)
        federation.run(server, exchanges=ROUND_1 + 1 if number == 1 else 3)
        server.next()  # the round is closed, its adapter sealed, and the server dies
    assert [entry[0] for entry in spent(federation)] == [*range(1, allowed + 1), *[allowed] * 2]
    assert sorted(set(trained(federation))) == list(range(1, allowed + 1))
    federation.run(federation.aggregator(resume=True))
    assert max(entry[1] for entry in spent(federation)) <= BUDGET


@UNITS
def test_no_finished_round_is_noised_anew(llama: Path, tmp_path: Path, unit: str) -> None:
    """Attack: the server's operator puts the checkpoint of round 1 back, after sites saw that of
    round 2.
    """
    federation, _ = short(tmp_path, llama, unit)
    server = federation.aggregator()
    federation.run(server, exchanges=ROUND_1 + 1)
    server.next()
    state, kept = federation.run_dir / "state", tmp_path / "kept"
    shutil.copytree(state, kept)
    federation.run(federation.aggregator(resume=True), exchanges=ROUND_1 + 1)
    assert trained(federation) == [1, 2, 3]
    shutil.rmtree(state)
    shutil.copytree(kept, state)
    with pytest.raises(RollbackError, match="has seen what came after round 2"):
        federation.run(federation.aggregator(resume=True))
    assert trained(federation) == [1, 2, 3]


@UNITS
def test_a_round_under_way_is_noised_anew_a_few_times_at_most(
    llama: Path, tmp_path: Path, unit: str
) -> None:
    """Attack: the server's operator puts the checkpoint of round 1 back, again and again, before
    sites see what came of round 2, to average the noise of many. The sites count for themselves, on
    their own disks.
    """
    federation, allowed = short(tmp_path, llama, unit)
    server = federation.aggregator()
    federation.run(server, exchanges=ROUND_1 + 1)
    server.next()
    state, kept = federation.run_dir / "state", tmp_path / "kept"
    shutil.copytree(state, kept)

    def repeat() -> None:
        """Round 2 once more, from other processes."""
        shutil.rmtree(state)
        shutil.copytree(kept, state)
        for site in SITES:
            federation.start_site(site)
        server = federation.aggregator(resume=True)
        federation.run(server, exchanges=3)
        server.next()

    for _ in range(allowed + 3 - 1):
        repeat()
    with pytest.raises(SiteLostError, match="budget of privacy pays for"):
        repeat()
    for site in SITES:
        assert len(trained(federation, site)) == allowed + 3


@UNITS
def test_no_loss_and_no_answer_leaves_the_server(llama: Path, tmp_path: Path, unit: str) -> None:
    """They have no noise; not even totals are covered by epsilon."""
    federation = private(tmp_path, llama, unit, rounds=1)
    federation.run(federation.aggregator())
    for event in [*federation.of("round", "server"), *federation.of("final", "server")]:
        figures = {"loss", "train_loss", "correct", "total"}
        assert not set(event) & (figures | ({"clipped", "norm_ratio"} if unit == SITE else set()))
        for entry in event["sites"].values():
            shown = {"outcome", "reason", "examples", "bytes_up", "bytes_down"}
            # what is compared to find outliers has its noise already
            assert set(entry) - ({"outlier"} if unit != SITE else set()) == shown


def released(federation: Federation, site: str = "north") -> dict[str, np.ndarray]:
    path = federation.run_dir / "sites" / site / "adapter" / "adapter_model.safetensors"
    found: dict[str, np.ndarray] = load_file(path)
    return found


def test_the_joint_adapter_has_the_noise_that_was_signed(llama: Path, tmp_path: Path) -> None:
    """By hand: mean of clipped updates, and deviation noise multiplier x clip / sites."""
    federation = private(tmp_path, llama, SITE, rounds=1, clip=0.05)
    sent: dict[str, dict[str, np.ndarray]] = {}
    before: dict[str, np.ndarray] = {}
    for name, site in federation.sites.items():
        honest = site._worker.answer

        def answer(question: Frame, honest: Any = honest, name: str = name) -> Frame:
            reply: Frame = honest(question)
            if question.kind == "train":
                before.update(load(bytes(question.body)))
                sent[name] = load(bytes(reply.body))
            return reply

        site._worker.answer = answer  # type: ignore[method-assign]
    federation.run(federation.aggregator())
    names = sorted(before)

    def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([tensors[name].astype(np.float64).ravel() for name in names])

    deltas = [flat(update) - flat(before) for update in sent.values()]
    assert all(np.linalg.norm(delta) > 0.05 for delta in deltas)  # each is clipped
    mean = sum(delta * (0.05 / np.linalg.norm(delta)) for delta in deltas) / len(deltas)
    noise = flat(released(federation)) - flat(before) - mean
    dp = federation.resolved.manifest.dp
    assert dp is not None
    expected = dp.noise_multiplier * 0.05 / len(deltas)
    assert noise.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * noise.size))
    assert abs(noise.mean()) < 5 * expected / np.sqrt(noise.size)


def test_who_is_away_changes_no_weight(llama: Path, tmp_path: Path) -> None:
    """Two of three sites answer: the job goes on, within the same budget."""
    spec = PrivacySpec(unit=SITE, epsilon=6.0)
    job = make_spare_job(tmp_path, llama, privacy=spec, train=TRAIN, aggregation={})
    assert job.network == NetworkSpec(min_sites=2)
    federation = make_federation(job, tmp_path / "run")
    federation.run(
        federation.aggregator(),
        network=lambda site, _way, number, body: None if site == "west" and number > 2 else body,
    )
    assert [entry[0] for entry in spent(federation)] == [1, 2]


def test_masks_change_no_clipped_gradient(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen layers elsewhere, under pads or not: the same gradients, bit for bit."""
    monkeypatch.setattr(NoiseStream, "add_noise", lambda _self, values, _d: values.astype(float))
    monkeypatch.setattr(NoiseStream, "chosen", lambda *_: [0, 3, 5, 6, 9])
    found = []
    for protect in ("adapter+data", "insecure-none"):
        (tmp_path / protect).mkdir()
        federation = private(tmp_path / protect, llama, EXAMPLE, protect=protect)
        worker: Any = federation.sites["north"]._worker
        loss, tokens = worker._private.fill()
        model = federation.models["north"]
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        assert all(grad.any() for name, grad in grads.items() if "lora_A" not in name)
        found.append((loss, tokens, grads))
    (loss, tokens, masked), (plain_loss, plain_tokens, plain) = found
    assert (loss, tokens) == (plain_loss, plain_tokens)
    assert masked.keys() == plain.keys()
    assert all(torch.equal(masked[name], plain[name]) for name in masked)
