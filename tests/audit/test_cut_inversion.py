"""Tokens are read out of plain activations, at every depth and in every form, and not of sealed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.audit import cut_inversion
from sealtune.audit.cut_inversion import FORMS, Cut, inside, inversion
from sealtune.audit.finding import Finding, Verdict
from sealtune.audit.sealed_view import by_force, seal
from sealtune.channel import stream
from sealtune.job.spec import ModelSpec
from sealtune.model.activations import Form
from sealtune.model.load import load_tokenizer
from sealtune.model.tasks import make_task
from tests.model.tiny import LABELS, make_texts


def cut_of(model: Path, depth: int) -> Cut:
    spec = ModelSpec(path=str(model), task="classification")
    task = make_task(
        "classification", load_tokenizer(spec), max_tokens=24, template="{text}", labels=LABELS
    )
    return Cut(spec, depth, task.encode(make_texts(24, 1)), task.encode(make_texts(120, 2)))


@pytest.fixture(scope="module", params=(1, 3))
def cut(deep_llama: Path, request: pytest.FixtureRequest) -> Cut:
    return cut_of(deep_llama, request.param)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_come_out_of_plain_activations_and_not_of_sealed_ones(cut: Cut, form: Form) -> None:
    found = inversion(cut, form)
    assert [one.variant.split(",")[0] for one in found] == ["nearest", "inverter"]
    for one in found:
        assert one.verdict is Verdict.HELD, one
        assert one.baseline.value > 4 * one.chance


def test_an_upload_that_is_not_sealed_is_called_broken(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsealed(body: bytes) -> bytes:
        return bytes(stream.HEADER_SIZE) + body + bytes(stream.TAG)

    monkeypatch.setattr(cut_inversion, "seal", unsealed)
    found = inversion(cut, "bf16")
    assert {one.verdict for one in found} == {Verdict.BROKEN}
    assert all(one.protected == one.baseline for one in found)


def test_inside_the_enclave_it_is_a_limit(cut: Cut) -> None:
    assert inside(inversion(cut, "bf16"), cut.depth).verdict is Verdict.LIMIT


def test_it_repeats(cut: Cut) -> None:
    first: list[Finding] = inversion(cut, "int8")
    assert inversion(cut, "int8") == first


def test_the_places_of_a_sealed_message() -> None:
    body = bytes(3 * stream.DEFAULT_CHUNK // 2)
    sealed = by_force(seal(body))
    assert len(sealed) == len(body)
    assert 120 < sum(sealed) / len(sealed) < 135  # ciphertext: uniform
