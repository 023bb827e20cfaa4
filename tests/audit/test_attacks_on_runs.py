"""Attacks on cut activations, updates and aggregation, carried out on the folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.audit.attack import Attack
from sealtune.audit.cut_inversion import CUT_INVERSION
from sealtune.audit.gradient_inversion import GRADIENT_INVERSION
from sealtune.audit.poisoning import POISONING
from sealtune.audit.subject import Subject
from tests.audit.run_folder import SPLIT, make_run


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Subject:
    own = {"model": {"task": "classification"}, "tuning": {"lora": {"rank": 4}}}
    return Subject(make_run(tmp_path_factory.mktemp("federated"), llama, **own), quick=True)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Subject:
    own = {**SPLIT, "split": {"cut": 1, "activations": "int8"}}
    return Subject(make_run(tmp_path_factory.mktemp("split"), llama, **own), quick=True)


@pytest.mark.parametrize(
    ("attack", "variants"),
    [
        (GRADIENT_INVERSION, {"one step, sealed", "one step, aggregate of 3, whose"}),
        (POISONING, {"labels, median", "backdoor enlarged, multi-krum", "backdoor, exact"}),
    ],
    ids=["updates", "poisoning"],
)
def test_of_a_federated_run(federated: Subject, attack: Attack, variants: set[str]) -> None:
    check(federated, attack, variants)


def test_of_a_split_run(split: Subject) -> None:
    check(split, CUT_INVERSION, {"nearest, cut 1, int8", "inside the server enclave, cut 1"})


def check(subject: Subject, attack: Attack, variants: set[str]) -> None:
    assert attack.applies(subject) == ""
    shares: list[float] = []
    found = attack.run(subject, lambda share, _what: shares.append(share))
    assert variants <= {one.variant for one in found}
    assert {one.attack for one in found} == {attack.name}
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_why_they_do_not_apply(federated: Subject, split: Subject) -> None:
    assert "federated" in CUT_INVERSION.applies(federated)
    assert "split" in GRADIENT_INVERSION.applies(split)
    assert "split" in POISONING.applies(split)


def test_a_family_without_that_layer(tmp_path: Path, gpt2: Path) -> None:
    tuning = {"lora": {"targets": ["c_attn"]}}
    subject = Subject(make_run(tmp_path, gpt2, rows=(30, 12), tuning=tuning))
    assert "down_proj" in POISONING.applies(subject)
