"""A whole split job in one process: server enclave and data owners pass bytes, without Flower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sealtune.cli.signing import propose
from sealtune.job.keys import public_hex
from sealtune.job.local import Local
from sealtune.job.manifest import Participant
from sealtune.job.proposal import sign, wrap
from sealtune.job.sections import JobSpec, LoraSpec, SpfSpec, SplitSpec, TrainSpec, TuningSpec
from sealtune.job.spec import Job
from sealtune.launch.parties import admit_party
from sealtune.methods.split.server import SplitServer
from sealtune.owner.bottom_site import BottomSite
from sealtune.party.driver import Driver
from sealtune.party.site_program import SiteProgram
from sealtune.plan.resolve import resolve
from tests.enclave.flow import Federation, is_signed, make_job, resumed, sign_job

KEYS = {
    site: Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    for number, site in enumerate(("north", "south"), 1)
}
TRAIN = TrainSpec(steps_per_round=3, batch_size=8, learning_rate=5e-3)


def make_split_job(folder: Path, base: Path, **sections: Any) -> Job:
    """A tiny split job: LoRA and SPF behind the first of the model's blocks."""
    values: dict[str, Any] = {
        "job": JobSpec(name="tiny", method="split", seed=3, rounds=2),
        "split": SplitSpec(cut=1, activations="fp32"),
        "tuning": TuningSpec(lora=LoraSpec(rank=4), spf=SpfSpec(qkv=0.5, dense=0.5)),
        "train": TRAIN,
    }
    return make_job(folder, base, **values | sections)


class SplitFederation(Federation):
    """One run's processes as objects.

    Attributes:
        enclave: what the last server enclave does.
    """

    enclave: SplitServer

    def start_site(self, site: str, key: Path | None = None) -> None:
        """A fresh process of a data owner."""
        local = self.parties[site]
        admitted = admit_party(local.model_copy(update={"key": key or local.key}))
        emit = self.emitter(f"client:{site}")
        self.sites[site] = SiteProgram(admitted, BottomSite(admitted, emit), emit)

    def server(self, *, resume: bool = False) -> Driver:
        """A fresh server enclave."""
        admitted, emit = resumed(self.resolved, resume), self.emitter("server")
        self.enclave = SplitServer(admitted, emit)
        return Driver(self.enclave, admitted, emit)


def sign_split(job: Job, run_dir: Path, **terms: Any) -> dict[str, Local]:
    """As ``sign_job``, by the keys above; ``terms`` are those of the manifest."""
    run_dir.mkdir(exist_ok=True)
    files = {site: run_dir / f"{site}.key" for site in KEYS}
    for site, key in KEYS.items():
        files[site].write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        files[site].chmod(0o600)
    if is_signed(job, run_dir):
        return sign_job(job, run_dir, keys=files)
    people = [
        Participant(org=site, key=public_hex(key.public_key()), sites=(site,))
        for site, key in KEYS.items()
    ]
    envelope = wrap(propose(resolve(job), people, **terms))
    for key in KEYS.values():
        envelope = sign(envelope, key)
    return sign_job(job, run_dir, envelope, files)


def make_split(job: Job, run_dir: Path, **terms: Any) -> SplitFederation:
    """Sign ``job`` and start its sites; ``terms`` are those of the manifest."""
    federation = SplitFederation(sign_split(job, run_dir, **terms), run_dir)
    for site in job.sites.names:
        federation.start_site(site)
    return federation
