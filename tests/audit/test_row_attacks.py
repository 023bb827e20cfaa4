"""Membership and canaries: found without noise, not with it; noise that is off is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom  # type: ignore[import-untyped]

from sealtune.audit import canaries, example_privacy
from sealtune.audit.adapter import Schedule, Trainer, frozen
from sealtune.audit.canaries import CANARIES
from sealtune.audit.example_privacy import Measured, allowed_auc, allowed_exposure, allowed_share
from sealtune.audit.finding import Finding, Rate, Verdict
from sealtune.audit.last_layer import ABSENT, TARGETS, States, Top, states_of
from sealtune.audit.membership import MEMBERSHIP
from sealtune.audit.own_adapter import own_findings, rows_apart
from sealtune.audit.subject import Subject
from sealtune.data.site import Example
from sealtune.errors import UnsupportedModelError
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.sections import LoraSpec, TrainSpec, TuningSpec
from sealtune.model.fit import fitting_task
from sealtune.model.load import load_model
from sealtune.model.private_gradients import Noise, PrivateGradients
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import local_round
from sealtune.privacy.noise import NoiseStream
from sealtune.tuning.apply import apply_tuning
from sealtune.tuning.folder import load_adapter, save_adapter
from tests.audit.run_folder import make_run
from tests.model.tiny import LABELS, make_gpt2, make_texts
from tests.sample_job import make_job, write_rows

GPT2 = {"targets": ["c_attn"]}
PRIVACY = {"unit": "example", "epsilon": 0.5}


def quiet(share: float, what: str) -> None:
    assert 0 <= share <= 1


def verdicts(found: Sequence[Finding]) -> list[str]:
    return [str(one.verdict) for one in found]


def noiseless(self: NoiseStream, values: np.ndarray, deviation: float) -> np.ndarray:
    return values.astype(np.float64)


def make_random(folder: Path, model: Path, **own: Any) -> Path:
    """A run whose rows are random letters with classes in turn: to be learned by heart only."""
    folder.mkdir(exist_ok=True)
    draw = np.random.default_rng(3)
    rows = [
        {
            "text": " ".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), 12)),
            "label": LABELS[i % 3],
        }
        for i in range(240)
    ]
    write_rows(folder / "random.jsonl", rows)
    data = {"train": "random.jsonl", **own.pop("data", {})}
    return make_run(folder, model, data=data, **own)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    return make_random(tmp_path_factory.mktemp("plain"), llama)


@pytest.fixture(scope="module")
def private_run(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    return make_random(tmp_path_factory.mktemp("private"), llama, privacy=PRIVACY)


def test_noise_holds_what_succeeds_without(private_run: Path) -> None:
    found = MEMBERSHIP.run(Subject(private_run, quick=True), quiet)
    assert verdicts(found) == ["held"] * 3
    assert found[1].baseline.value > 0.85
    found = CANARIES.run(Subject(private_run, quick=True), quiet)
    assert verdicts(found) == ["held"] * 3
    assert found[1].baseline.value == pytest.approx(math.log2(3))


def test_noise_that_is_switched_off_is_seen(
    private_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NoiseStream, "add_noise", noiseless)
    found = MEMBERSHIP.run(Subject(private_run, quick=True), quiet)
    assert verdicts(found) == ["broken"] * 3
    found = CANARIES.run(Subject(private_run, quick=True), quiet)
    assert found[-1].variant == "proven epsilon, epsilon 0.5"
    assert found[-1].verdict is Verdict.BROKEN


def test_a_run_without_privacy_is_a_limit(plain_run: Path, private_run: Path) -> None:
    known, guessed, some = (Rate(v, v - 0.1, v + 0.1, 100) for v in (0.9, 0.5, 0.7))
    measured = Measured("LiRA", "area", 0.5, known, [some, guessed], allowed_auc, ["", ""])
    found = example_privacy.findings(Subject(plain_run), "membership", measured)
    assert [(one.variant, str(one.verdict)) for one in found] == [
        ("LiRA", "limit"),
        ("LiRA, epsilon 8 (this run has none)", "limit"),
        ("LiRA, epsilon 1 (this run has none)", "held"),
    ]
    assert found[0].protected is None
    for rate, verdict in ((guessed, "held"), (some, "limit"), (known, "broken")):
        measured = Measured("LiRA", "area", 0.5, known, [rate], allowed_auc, [""])
        found = example_privacy.findings(Subject(private_run), "membership", measured)
        assert verdicts(found) == [verdict]  # epsilon 0.5 allows 0.62


@pytest.mark.parametrize(
    ("own", "why_not"),
    [
        ({"model": {"task": "causal-lm"}, "data": {"label": None}}, "trains no head on classes"),
        ({"privacy": {"unit": "site", "epsilon": 8.0}}, "hides whole sites"),
        ({"rows": (60, 24)}, "60 training rows are too few: it takes 100"),
    ],
)
def test_runs_that_are_not_attacked(
    tmp_path: Path, llama: Path, own: dict[str, Any], why_not: str
) -> None:
    assert why_not in MEMBERSHIP.applies(Subject(make_run(tmp_path, llama, **own)))


def test_an_adapter_of_the_run_that_knows_its_rows(tmp_path: Path, llama: Path) -> None:
    """Rows that the run left out are of the same file, and no site has them."""
    run_dir = make_random(tmp_path, llama, data={"max_train_rows": 120})
    subject, guess = Subject(run_dir, quick=True), Rate(0.9, 0.8, 0.95, 100)
    members, others = rows_apart(subject)
    taken = {row.text for data in subject.sites.values() for row in data.train}
    assert len(members) == len(others) == 50
    assert {row.text for row in members} < taken
    assert not taken & {row.text for row in others}
    [found] = own_findings(subject, "membership", "area", guess)
    assert found.verdict is Verdict.HELD  # it was moved at random
    loaded = load_adapter(run_dir / "adapter")
    loaded.model.requires_grad_(False)
    trained = [
        p for n, p in loaded.model.named_parameters() if "lora_" in n or "score.modules" in n
    ]
    for one in trained:
        one.requires_grad_(True)
    spec = TrainSpec(steps_per_round=60, batch_size=50, learning_rate=1e-2)
    texts = loaded.encode(members)
    local_round(loaded.model, loaded.task, texts, spec, seed=1, round=1, site="all")
    save_adapter(run_dir / "adapter", loaded.model, loaded.fingerprint)
    [found] = own_findings(subject, "membership", "area", guess)
    assert found.protected is not None
    assert found.protected.value > 0.9
    assert found.verdict is Verdict.LIMIT
    assert rows_apart(Subject(make_run(tmp_path / "all", llama)))[1] == []


def test_the_last_layer_answers_as_the_whole_model(plain_run: Path) -> None:
    """The adapter fits the whole model, which gives the same answers with it."""
    subject = Subject(plain_run)
    top, rows, states = _top(plain_run)
    torch.manual_seed(1)
    for tensor in trainable_state(top.model).values():
        tensor.add_(torch.randn_like(tensor), alpha=0.1)
    job, task = subject.job, fitting_task(subject.job, LABELS)
    lora = LoraSpec(rank=8, alpha=16, targets=TARGETS, layers=(subject.blocks - 1,))
    tuning = TuningSpec(lora=lora)
    whole = apply_tuning(load_model(job.model, 3), tuning, "classification", job.job.seed)
    load_trainable_state(whole, trainable_state(top.model))
    answers = task.scores(whole.double().eval(), task.encode(rows).batch(range(len(rows))))
    torch.testing.assert_close(top.scores(states), answers, rtol=1e-5, atol=1e-5)


def test_absent_rows_are_counted_and_add_nothing(plain_run: Path) -> None:
    top, rows, states = _top(plain_run)
    labels = states.labels.clone()
    labels[5:] = ABSENT
    few, many = states.part(range(5)), states.relabelled(labels)
    losses = top.losses(top.model, many.batch(range(len(rows))))
    assert not losses[5:].any()
    expected = top.loss(top.model, few.batch(range(5)))
    torch.testing.assert_close(top.loss(top.model, many.batch(range(len(rows)))), expected)
    spec = Schedule(1, len(rows), 1e-3).spec
    sums = []
    for data in (few, many):
        private = PrivateGradients(top.model, top, data, spec, Noise(1.0, 0.01))  # type: ignore[arg-type]
        with private._watched:
            top.losses(top.model, data.batch(range(len(data)))).sum().backward()
            sums.append(private._watched.clipped_sum(1.0))
    for name, total in sums[0].items():
        torch.testing.assert_close(sums[1][name], total)


def test_an_adapter_is_trained_from_its_first_values(plain_run: Path) -> None:
    """Else the next one knows what the one before has seen."""
    top, _rows, states = _top(plain_run)
    scores = []
    for _ in range(2):
        trainer = Trainer(top, Schedule(4, 8, 1e-2))
        trainer.train(states, 1, trainer.noise(PrivacySpec(unit="example", epsilon=1.0), 40))
        scores.append(top.scores(states))
    assert torch.equal(*scores)


def test_a_model_that_ends_otherwise_is_refused(tmp_path: Path, llama: Path) -> None:
    subject = Subject(make_random(tmp_path, make_gpt2(tmp_path / "gpt2"), tuning=GPT2))
    assert "last linear layer is not called down_proj" in MEMBERSHIP.applies(subject)
    model = load_model(make_job(llama).model, 3)
    block = model.model.layers[-1]
    block.register_forward_hook(lambda _block, _inputs, made: made * 1.01)
    task = fitting_task(make_job(llama), LABELS)
    with pytest.raises(UnsupportedModelError, match="more than add its last linear layer"):
        states_of(model, task.encode(make_texts(4, 1)))


def test_what_a_budget_allows() -> None:
    for epsilon, delta in ((0.0, 0.0), (1.0, 1e-5), (2.0, 0.1)):
        grid = np.linspace(0, 1, 200_001)
        curve = [allowed_share(float(one))(epsilon, delta) for one in grid]
        assert allowed_auc(epsilon, delta) == pytest.approx(np.trapezoid(curve, grid), abs=1e-5)
    by_chance = np.mean([math.log2(21 / rank) for rank in range(1, 22)])
    assert allowed_exposure(21, 1)(0.0, 0.0) == pytest.approx(by_chance)
    assert allowed_exposure(21, 4)(8.0, 1e-5) == pytest.approx(math.log2(21))


def test_a_proven_epsilon_is_below_the_true_one() -> None:
    """Randomised response: each row tells whether it was there, and lies as often as it may."""
    draw, epsilon, count = np.random.default_rng(1), 1.5, 2000
    found = []
    for _ in range(200):
        inside = draw.random(count) < 0.5
        true = draw.random(count) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(true == inside, 1.0, -1.0) + 0.001 * draw.random(count)
        found.append(canaries.epsilon_of(scores, inside, 1e-6).low)
    assert sum(low > epsilon for low in found) <= 2  # one in a thousand
    assert np.mean(found) > 1.1
    guess = canaries.epsilon_of(draw.random(count), draw.random(count) < 0.5, 1e-6)
    assert guess.low <= 0.0 < guess.high
    for trials, share in ((7, 0.3), (150, 0.9)):
        expected = binom.pmf(np.arange(trials + 1), trials, share)
        np.testing.assert_allclose(canaries._binomial(trials, share), expected, rtol=1e-9)


def _top(run_dir: Path) -> tuple[Top, list[Example], States]:
    """On forty of the run's rows."""
    rows = [row for data in Subject(run_dir).sites.values() for row in data.train][:40]
    top, (states,) = frozen(Subject(run_dir), rows)
    return top, rows, states
