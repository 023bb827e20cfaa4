"""Tokens are read out of a single update, and not out of a sealed, a masked or a noisy one."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sealtune.audit import gradient_inversion
from sealtune.audit.finding import Finding, Verdict
from sealtune.audit.gradient_inversion import Trials, findings, trials
from sealtune.audit.miniature import Miniature
from sealtune.audit.span_check import SpanCheck
from sealtune.data.site import Example, SiteData
from tests.model.tiny import LABELS
from tests.sample_job import make_job

LETTERS = string.ascii_letters + string.digits


def miniature(model: Path, **sections: Any) -> Miniature:
    """Rows of a few random letters, each a token of its own: texts differ in their tokens."""
    draw = random.Random(3)
    rows = [Example(" ".join(draw.sample(LETTERS, 6)), draw.randrange(3)) for _ in range(130)]
    job = make_job(
        model,
        train={"batch_size": 2, "learning_rate": 3e-3},
        tuning={"lora": {"rank": 8, "alpha": 16, "targets": ["q_proj", "k_proj", "v_proj"]}},
        **sections,
    )
    return Miniature(job, LABELS, {"north": SiteData(rows, [])})


@pytest.fixture(scope="module")
def small(llama: Path) -> Miniature:
    return miniature(llama)


@pytest.fixture(scope="module", params=(1, 2))
def made(small: Miniature, request: pytest.FixtureRequest) -> Trials:
    return trials(small, request.param, sites=16)


def by_variant(found: list[Finding]) -> dict[str, Finding]:
    return {one.variant.partition(", ")[2]: one for one in found}


def test_one_update_tells_tokens_and_what_others_have_of_it_does_not(
    made: Trials, small: Miniature
) -> None:
    found = by_variant(list(findings(made, "steps", small.job)))
    verdicts = {variant: one.verdict for variant, one in found.items()}
    assert verdicts.pop("aggregate of 3") is Verdict.LIMIT
    del verdicts["aggregate of 12"]  # so few rows of so few numbers: it may tell nothing
    assert set(verdicts.values()) == {Verdict.HELD}, found
    assert found["sealed"].baseline.value > 0.7


def test_so_it_is_of_a_masked_update(made: Trials, llama: Path) -> None:
    small = miniature(llama)
    job = small.job.model_copy(
        update={"job": small.job.job.model_copy(update={"trust": "secure-aggregation"})}
    )
    assert by_variant(list(findings(made, "", job)))["masked"].verdict is Verdict.HELD


@pytest.mark.parametrize(
    ("variant", "what", "instead"),
    [
        ("sealed", "seal", lambda body: bytes(156) + body + bytes(16)),
        ("masked", "add_mask", lambda _vector, _key, _sign: None),
    ],
)
def test_an_update_that_is_not_hidden_is_called_broken(
    made: Trials, small: Miniature, monkeypatch: pytest.MonkeyPatch, variant: str, what: str,
    instead: Any,
) -> None:  # fmt: skip
    trust = {"sealed": "enclaves", "masked": "secure-aggregation"}[variant]
    job = small.job.model_copy(update={"job": small.job.job.model_copy(update={"trust": trust})})
    monkeypatch.setattr(gradient_inversion, what, instead)
    assert by_variant(list(findings(made, "", job)))[variant].verdict is Verdict.BROKEN


@pytest.mark.parametrize(("noise", "tells"), [(1.0, False), (1e-6, True)])
def test_noise_hides_even_a_single_site_and_none_does_not(
    made: Trials, small: Miniature, monkeypatch: pytest.MonkeyPatch, noise: float, tells: bool
) -> None:
    monkeypatch.setattr(gradient_inversion, "_NOISE", noise)
    alone = [gradient_inversion.noisy(made.before, [one.update], small.job) for one in made.of]
    assert (made.against_unused(alone).low > 0.5) == tells


def test_it_repeats(small: Miniature) -> None:
    first, again = (trials(small, 1, sites=2) for _ in range(2))
    for one, other in zip(first.of, again.of, strict=True):
        assert one.own == other.own
        assert all(np.array_equal(t, other.update[name]) for name, t in one.update.items())


def test_tokens_in_the_span_of_the_rows_are_found(small: Miniature) -> None:
    """Rows that are sums of the inputs of three tokens: these score highest."""
    model, tokens = small.tuned(), torch.arange(2, 300)
    check = SpanCheck(model, tokens)
    base = model.get_base_model().model
    with torch.no_grad():
        inputs = base.layers[0].input_layernorm(base.embed_tokens(tokens)).double().numpy()
    chosen = [17, 120, 251]
    mixed = np.random.default_rng(0).normal(size=(8, 3)) @ inputs[chosen]
    names, *later = [layer[0] for layer in check._whitened]
    first = dict.fromkeys(names, mixed)
    noise = {name: np.eye(8, 64) for layer in later for name in layer}
    scores = check.scores(first | noise)
    assert set(np.argsort(scores)[-3:]) == set(chosen)
