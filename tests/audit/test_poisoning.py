"""A backdoor through one site of five, against aggregators that bear it and that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sealtune.audit import attacked_rounds
from sealtune.audit.attacked_rounds import PLAIN, Attack, Server, play, settings_of
from sealtune.audit.finding import Verdict
from sealtune.audit.last_layer import Top, states_of
from sealtune.audit.miniature import Miniature
from sealtune.audit.poisoning import BACKDOOR, SITES, Ground, findings, ground, played
from sealtune.data.site import Example, SiteData
from sealtune.model.load import load_model
from tests.model.tiny import LABELS, make_texts
from tests.sample_job import make_job

ROUNDS = 3


def examples(count: int, seed: int) -> list[Example]:
    return [Example(text.text, text.label) for text in make_texts(count, seed)]


@pytest.fixture(scope="module")
def small(llama: Path) -> Miniature:
    data = SiteData(examples(300, 1), examples(200, 2))
    return Miniature(make_job(llama), LABELS, {"north": data})


@pytest.fixture(scope="module")
def on(small: Miniature) -> Ground:
    return ground(small)


def test_multi_krum_bears_an_enlarged_backdoor_and_the_default_does_not(on: Ground) -> None:
    found = {
        one.variant: one.verdict
        for one in findings(on, ("default", "multi-krum"), (BACKDOOR,), rounds=ROUNDS)
    }
    assert found["backdoor, default"] is Verdict.LIMIT
    assert found["backdoor enlarged, default"] is Verdict.LIMIT
    assert found["backdoor enlarged, multi-krum"] is Verdict.HELD


def test_a_rule_that_leaves_nobody_out_is_called_broken(
    on: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attacked_rounds.AGGREGATORS, "multi-krum", {"outliers": "report"})
    found = {f.variant: f for f in findings(on, ("multi-krum",), (BACKDOOR,), rounds=ROUNDS)}
    assert found["backdoor enlarged, multi-krum"].verdict is Verdict.BROKEN


def test_without_an_attack_the_trigger_does_nothing(on: Ground) -> None:
    played(on, PLAIN, rounds=ROUNDS)
    clean = on.successes(BACKDOOR).value
    played(on, PLAIN, BACKDOOR, rounds=ROUNDS)
    assert on.successes(BACKDOOR).low > clean


@pytest.mark.parametrize(("just", "refused"), [(0.999, 0.0), (1.1, 1.0)])
def test_what_is_as_large_as_passes_passes_and_no_more(
    on: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, just: float, refused: float
) -> None:
    monkeypatch.setattr(attacked_rounds, "_JUST", just)
    rows = {site: len(own) for site, own in on.sites.items()}
    settings = settings_of("default", SITES, seed=1, rounds=2, steps_per_round=2)
    server = Server(settings, on.first, rows, tmp_path)
    seen = play(server, on.top, on.sites, Attack(on.attacker, -1.0, "far"))
    assert seen.refused == refused


def test_it_repeats(on: Ground) -> None:
    played(on, "default", BACKDOOR, rounds=2)
    first = on.top.answers(on.test)
    played(on, "default", rounds=1)
    played(on, "default", BACKDOOR, rounds=2)
    assert torch.equal(first, on.top.answers(on.test))


def test_the_small_top_answers_as_the_whole_model(small: Miniature) -> None:
    """Same last layer, norm and head: the same scores."""
    model = load_model(small.job.model, len(LABELS))
    top = Top(small.job.model, LABELS, seed=1)
    texts = small.texts(examples(12, 5))
    head = torch.randn_like(model.score.weight, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.score.weight.copy_(head)
        for name, parameter in top.model.named_parameters():
            if "score" in name and parameter.requires_grad:
                parameter.copy_(head)
    batch = texts.batch(range(12))
    with torch.no_grad():
        whole = model(**batch.inputs()).logits
    states = states_of(model, texts)
    with torch.no_grad():
        assert torch.allclose(top.logits(states.batch(range(12))), whole, atol=1e-4)
