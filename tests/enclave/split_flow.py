"""A whole split job in one process: server enclave and data owners pass bytes, without Flower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.cli.signing import propose, throw_away
from sealtune.enclave.client_program import SiteProgram
from sealtune.enclave.own_data import load_own_data
from sealtune.enclave.trust import owner_trust, split_server_trust, trust_for
from sealtune.job.dsse import sign
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Participant, wrap
from sealtune.job.resolved import Resolved, read_resolved
from sealtune.job.spec import Job, JobSpec, LoraSpec, SpfSpec, SplitSpec, TrainSpec, TuningSpec
from sealtune.methods.split.server import SplitServer
from sealtune.model.resolve import resolve
from sealtune.owner.bottom_site import BottomSite
from sealtune.party.driver import Driver
from tests.enclave.flow import Federation, make_job

KEYS = {
    site: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, site in enumerate(("north", "south"), 1)
}


def make_split_job(folder: Path, base: Path, **sections: Any) -> Job:
    """A tiny split job: LoRA and SPF behind the first of the model's blocks."""
    values: dict[str, Any] = {
        "job": JobSpec(name="tiny", method="split", seed=3, rounds=2),
        "split": SplitSpec(cut=1, activations="fp32"),
        "tuning": TuningSpec(lora=LoraSpec(rank=4), spf=SpfSpec(qkv=0.5, dense=0.5)),
        "train": TrainSpec(steps_per_round=3, batch_size=8, learning_rate=5e-3),
    }
    return make_job(folder, base, **values | sections)


class SplitFederation(Federation):
    """One run's processes as objects.

    Attributes:
        enclave: what the last server enclave does.
    """

    enclave: SplitServer

    def start_site(self, site: str, key: Ed25519PrivateKey | None = None) -> None:
        """A fresh process of a data owner."""
        trust = owner_trust(self.resolved, site, key or KEYS[site])
        emit = self.emitter(f"client:{site}")
        texts, _ = load_own_data(self.resolved, site, emit)
        worker = BottomSite(self.resolved, site, texts, self.run_dir, emit)
        self.sites[site] = SiteProgram(
            bytes.fromhex(self.resolved.job_id), site, trust, worker, emit
        )

    def server(self, *, resume: bool = False) -> Driver:
        """A fresh server enclave."""
        folder, key, emit = self.run_dir / "state", self.trust.sealing_key, self.emitter("server")
        self.enclave = SplitServer(self.resolved, folder, key, emit, resume=resume)
        return Driver(self.enclave, self.resolved, split_server_trust(self.resolved), emit)


def resolve_split(job: Job, path: Path, **terms: Any) -> Resolved:
    """``job.resolved.json`` with a manifest signed by the keys above; kept if it is there."""
    if path.exists():
        return read_resolved(path)
    resolution = resolve(job)
    if not terms:
        return resolution.write(path, throw_away(resolution, KEYS))
    people = [
        Participant(org=site, key=public_hex(key.public_key()), sites=(site,))
        for site, key in KEYS.items()
    ]
    envelope = wrap(propose(resolution, people, **terms))
    for key in KEYS.values():
        envelope = sign(envelope, key)
    return resolution.write(path, envelope)


def make_split(job: Job, run_dir: Path, **terms: Any) -> SplitFederation:
    """Resolve ``job`` and start its sites; ``terms`` are those of the manifest."""
    run_dir.mkdir(exist_ok=True)
    resolved = resolve_split(job, run_dir / "job.resolved.json", **terms)
    federation = SplitFederation(resolved, run_dir, trust_for(resolved))
    for site in job.sites.names:
        federation.start_site(site)
    return federation
