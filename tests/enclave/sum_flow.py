"""A whole job under secure aggregation in one process: server and data owners pass bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealtune.cli.signing import propose
from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.keys import public_hex
from sealtune.job.local import Local
from sealtune.job.manifest import Participant
from sealtune.job.proposal import sign, wrap
from sealtune.job.sections import JobSpec, NetworkSpec, SitesSpec
from sealtune.job.spec import Job
from sealtune.launch.parties import admit_party
from sealtune.methods.federated.in_place import InPlace
from sealtune.methods.federated.site_trainer import SiteTrainer
from sealtune.methods.secure_aggregation.server import SumServer
from sealtune.owner.masked_site import MaskedSite
from sealtune.owner.trainer import own_key
from sealtune.party.driver import Driver
from sealtune.party.site_program import SiteProgram
from sealtune.plan.resolve import resolve
from tests.enclave.flow import Federation, is_signed, make_job, resumed, sign_job

FIVE = ("east", "north", "river", "south", "west")
KEYS = {
    site: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, site in enumerate(FIVE, 1)
}


def make_sum_job(folder: Path, base: Path, *, min_sites: int | None = 4, **sections: Any) -> Job:
    """A tiny job of five sites, of which one may be lost."""
    values: dict[str, Any] = {
        "job": JobSpec(name="tiny", seed=3, rounds=2, trust="secure-aggregation"),
        "sites": SitesSpec(names=FIVE, partition="dirichlet", alpha=5.0),
        "aggregation": AggregationSpec(norm_bound="none"),
        "privacy": PrivacySpec(),
        "network": NetworkSpec(min_sites=min_sites),
    }
    return make_job(folder, base, **values | sections)


class SumFederation(Federation):
    """One run's processes as objects.

    Attributes:
        workers: what each site does.
        last_server: what the last server does.
    """

    workers: dict[str, MaskedSite]
    last_server: SumServer

    def start_site(self, site: str) -> None:
        """A fresh process of a data owner."""
        local = self.parties[site]
        admitted, emit = admit_party(local), self.emitter(f"client:{site}")
        trainer = SiteTrainer(admitted, InPlace(), emit)
        self.models[site] = trainer._model
        worker = MaskedSite(admitted, own_key(local), trainer)
        self.workers = {**getattr(self, "workers", {}), site: worker}
        self.sites[site] = SiteProgram(admitted, worker, emit)

    def server(self, *, resume: bool = False) -> Driver:
        """A fresh server."""
        admitted, emit = resumed(self.resolved, resume), self.emitter("server")
        self.last_server = SumServer(admitted, emit)
        return Driver(self.last_server, admitted, emit)


def sign_sum(job: Job, run_dir: Path, **terms: Any) -> dict[str, Local]:
    """As ``sign_job``, by the keys above; ``terms`` are those of the manifest."""
    run_dir.mkdir(exist_ok=True)
    sites = job.sites.names
    files = {site: run_dir / f"{site}.key" for site in sites}
    for site, file in files.items():
        pem = KEYS[site].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(pem)
        file.chmod(0o600)
    if is_signed(job, run_dir):
        return sign_job(job, run_dir, keys=files)
    people = [
        Participant(org=site, key=public_hex(KEYS[site].public_key()), sites=(site,))
        for site in sites
    ]
    envelope = wrap(propose(resolve(job), people, **terms))
    for site in sites:
        envelope = sign(envelope, KEYS[site])
    return sign_job(job, run_dir, envelope, files)


def make_sum(job: Job, run_dir: Path, **terms: Any) -> SumFederation:
    """Sign ``job`` and start its sites; ``terms`` are those of the manifest."""
    federation = SumFederation(sign_sum(job, run_dir, **terms), run_dir)
    for site in job.sites.names:
        federation.start_site(site)
    return federation
