"""Which kinds of evidence a job may accept: of each role the one that it names."""

from __future__ import annotations

from typing import Any

import pytest

from sealtune.errors import ManifestError, WeakEvidenceError
from sealtune.party.trust import accepted_evidence
from tests.job.sample import JOB, make_manifest

LISTED = {"measurements": ["ab" * 48]}
GPU = {"nvidia-gpu": {"measurements": "any", "min_firmware": {"driver": "550", "vbios": "96"}}}


def accept(named: Any, **roles: dict[str, Any]) -> None:
    protection = JOB.settings.protection.model_copy(update={"attestation": named})
    settings = JOB.settings.model_copy(update={"protection": protection})
    appraisal = {role: {"version": 1, "kinds": kinds} for role, kinds in roles.items()}
    accepted_evidence(make_manifest(settings=settings, appraisal=appraisal))


def test_one_kind_of_each_role() -> None:
    accept("tdx", server={"tdx": LISTED}, site={"tdx": LISTED})
    accept("tdx", server={"tdx": LISTED}, site={"tdx": LISTED, **GPU})
    accept({"server": "tdx", "site": "sgx"}, server={"tdx": LISTED}, site={"sgx": LISTED})


@pytest.mark.parametrize("other", ["sgx", "simulated", "participant", "unattested"])
def test_no_kind_beside_it(other: str) -> None:
    """Nobody of the job shows it, so whoever does is a stranger."""
    with pytest.raises(WeakEvidenceError):
        accept("tdx", server={"tdx": LISTED}, site={"tdx": LISTED, other: LISTED})


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ManifestError, match="astrology"):
        accept("tdx", server={"tdx": LISTED}, site={"tdx": LISTED, "astrology": LISTED})
