"""Epsilon of each round against a second library, and manifests that state another."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sealtune.accounting.terms import check_terms, epsilons, make_terms
from sealtune.cli import signing
from sealtune.errors import ConfigError, DigestMismatchError
from sealtune.job.dp_terms import DpTerms
from sealtune.job.manifest import Manifest
from sealtune.job.settings import Settings
from tests.job import sample

ROWS = {"north": 500, "south": 80}


def settings(rounds: int = 5, **privacy: Any) -> Settings:
    """Two sites."""
    return Settings.model_validate(
        {
            "job": {"name": "private", "rounds": rounds},
            "model": {},
            "data": {},
            "sites": {"names": list(ROWS)},
            "privacy": privacy,
        }
    )


def terms(rounds: int = 5, **privacy: Any) -> DpTerms:
    made = make_terms(settings(rounds, **privacy), ROWS)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(1.0, 0.02, 1000), (2.5, 0.2, 25), (0.8, 0.05, 60), (1.4, 1, 5)]
)
def test_the_second_accountant_says_the_same(noise: float, rate: float, steps: int) -> None:
    """Opacus, at the same orders."""
    from dp_accounting.rdp import RdpAccountant
    from opacus.accountants import RDPAccountant

    second = RDPAccountant()
    second.history = [(noise, rate, steps)]
    expected = second.get_epsilon(1e-5, alphas=list(RdpAccountant().orders))
    assert epsilons(noise, rate, steps, (1,), 1e-5)[0] == pytest.approx(expected, rel=1e-3)


def test_one_gaussian_by_hand() -> None:
    """Divergence a / (2 s^2) at order a, converted as in arXiv 2004.00010, proposition 12."""
    noise, delta, rounds = 2.0, 1e-5, 3
    by_hand = min(
        rounds * a / (2 * noise**2) + math.log1p(-1 / a) - math.log(delta * a) / (a - 1)
        for a in [1 + x / 1000 for x in range(100, 60_000)]
    )
    assert epsilons(noise, 1.0, 1, (rounds,), delta)[0] == pytest.approx(by_hand, rel=2e-3)
    assert epsilons(noise, 1.0, 1, (rounds,), delta)[0] >= by_hand


def test_noise_is_the_least_that_all_rounds_allow() -> None:
    for unit in ("site", "example"):
        made = terms(unit=unit, epsilon=3.0)
        assert 2.99 < made.spent(5) <= 3.0
        assert made.rounds(3.0) == 5
        less = terms(unit=unit, epsilon=3.0, noise_multiplier=made.noise_multiplier * 0.99)
        assert less.rounds(3.0) == 4


def test_a_site_pays_for_its_rows() -> None:
    """Fewer rows: each is drawn more often. A whole site costs the same, whatever it has."""
    by_rows = terms(unit="example", epsilon=3.0).epsilons(5)
    assert by_rows["south"] > by_rows["north"]
    by_site = terms(unit="site", epsilon=3.0).epsilons(5)
    assert by_site["south"] == by_site["north"]


def test_no_round_fits() -> None:
    with pytest.raises(ConfigError, match="first round alone costs") as refused:
        terms(unit="site", epsilon=0.5, noise_multiplier=1.0)
    assert refused.value.problems[0].key == "privacy.epsilon"


def test_no_noise_is_enough() -> None:
    with pytest.raises(ConfigError, match="no amount of noise keeps all rounds"):
        terms(unit="site", epsilon=1e-9, delta=1e-15)


def test_without_a_unit_there_is_nothing_to_account() -> None:
    assert make_terms(settings(), ROWS) is None


def manifest(**changes: Any) -> Manifest:
    """One that everybody could have signed, with ``changes`` to what it says of privacy."""
    of = sample.JOB.settings.model_dump(mode="json")
    of["privacy"] = {"unit": "example", "epsilon": 3.0}
    agreed = Settings.model_validate(of)
    right = make_terms(agreed, dict.fromkeys(agreed.sites.names, sample.DATA.train_rows))
    assert right is not None
    return sample.make_manifest(settings=agreed, dp=right.model_copy(update=changes))


def test_a_manifest_with_another_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: rounds are said to cost half, or noise to be less, than follows."""
    honest = manifest()
    check_terms(honest)
    dp = honest.dp
    assert dp is not None
    cheap = tuple(
        table.model_copy(update={"epsilon": tuple(cost / 2 for cost in table.epsilon)})
        for table in dp.tables
    )
    monkeypatch.setattr("sealtune.party.admit.check_code", lambda *_: None)
    for changes in ({"tables": cheap}, {"noise_multiplier": dp.noise_multiplier / 2}):
        forged = manifest(**changes)  # its form is right, so that it can be built and signed
        with pytest.raises(DigestMismatchError, match="from its settings and rows follows"):
            check_terms(forged)
        with pytest.raises(DigestMismatchError):  # what `job sign` and `job verify` call
            signing.check_expected(forged, None)


def test_a_delta_that_shows_a_unit_as_it_is_is_refused() -> None:
    """With delta at 1 / rows, publishing one row drawn at random would count as private."""
    for unit, delta in (("example", 1 / 500), ("site", 0.5)):
        with pytest.raises(ConfigError, match=r"privacy\.delta"):
            terms(unit=unit, epsilon=3.0, delta=delta)
        assert terms(unit=unit, epsilon=3.0, delta=delta / 2)
