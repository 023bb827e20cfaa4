"""A cohort counts organisations: whatever sites one of them has, alone it makes no aggregate."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealtune.cli.signing import propose
from sealtune.errors import SiteLostError
from sealtune.job.dsse import Envelope
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Participant
from sealtune.job.proposal import sign, wrap
from sealtune.job.sections import NetworkSpec, SitesSpec
from sealtune.job.spec import Job
from sealtune.plan.resolve import resolve
from tests.enclave.flow import Network, make_federation, make_job, sign_job
from tests.enclave.split_flow import SplitFederation, make_split_job

CLINICS, LAB = ("north", "south", "east"), ("west",)
SITES = SitesSpec(names=(*CLINICS, *LAB), partition="dirichlet", alpha=5.0)
THREE = NetworkSpec(min_sites=3)
KEYS = {org: Ed25519PrivateKey.generate() for org in ("clinics", "lab")}


def signed(job: Job) -> Envelope:
    """One organisation answers for three sites, another for the fourth."""
    people = [
        Participant(org=org, key=public_hex(KEYS[org].public_key()), sites=sites)
        for org, sites in (("clinics", CLINICS), ("lab", LAB))
    ]
    manifest = propose(resolve(job), people)
    assert (manifest.settings.quorum, manifest.min_cohort) == (3, 2)
    envelope = wrap(manifest)
    for key in KEYS.values():
        envelope = sign(envelope, key)
    return envelope


def without(site: str) -> Network:
    return lambda name, _way, _number, body: None if name == site else body


def test_three_sites_of_one_organisation_are_not_averaged(llama: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path, llama, sites=SITES, network=THREE)
    federation = make_federation(job, tmp_path / "run", signed(job))
    driver = federation.aggregator()
    with pytest.raises(SiteLostError, match=r"only 3 of 4 .* at least 2 organisations"):
        federation.run(driver, network=without("west"))
    first = federation.of("round", "server")[1]
    assert [entry["outcome"] for entry in first["sites"].values()] == ["ok"] * 3 + ["late"]
    assert first["trained_moved"] is False  # the next round would be sent what this one was
    assert not (tmp_path / "run" / "sites").exists()
    federation.run(federation.aggregator(resume=True), network=without("south"))  # two are enough
    assert federation.of("final", "server")


def test_three_sites_of_one_organisation_are_not_trained_on(llama: Path, tmp_path: Path) -> None:
    job = make_split_job(tmp_path, llama, sites=SITES, network=THREE)
    keys = {}
    for org, sites in (("clinics", CLINICS), ("lab", LAB)):
        file = tmp_path / f"{org}.key"
        file.write_bytes(KEYS[org].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.chmod(0o600)
        keys.update(dict.fromkeys(sites, file))
    parties = sign_job(job, tmp_path / "run", signed(job), keys)
    federation = SplitFederation(parties, tmp_path / "run")
    for site in SITES.names:
        federation.start_site(site)
    with pytest.raises(SiteLostError, match=r"only 3 of 4 .* at least 2 organisations"):
        federation.run(federation.server(), network=without("west"))
    assert not federation.of("step")
    (only,) = federation.of("round", "server")
    assert not set(only) & {"correct", "loss", "train_loss"}
    assert not (tmp_path / "run" / "sites").exists()
