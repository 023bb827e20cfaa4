"""The attack by subtraction, in whole runs: the same job once with a hospital and once without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import load, load_file

from sealtune.cli.signing import propose
from sealtune.errors import DifferenceReleaseError, SiteLostError
from sealtune.frames import Frame
from sealtune.job.dsse import Envelope
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Participant
from sealtune.job.proposal import sign, wrap
from sealtune.job.sections import JobSpec, NetworkSpec, SitesSpec, TrainSpec
from sealtune.job.spec import DataSpec, Job
from sealtune.party.site_program import Worker
from sealtune.plan.resolve import resolve
from tests.enclave.flow import make_federation, make_job
from tests.enclave.split_flow import KEYS as SPLIT_KEYS
from tests.enclave.split_flow import make_split, make_split_job
from tests.sample_job import write_texts

ORGS = ("north", "south", "west")
KEYS = {org: Ed25519PrivateKey.generate() for org in ORGS}
ONE_STEP = TrainSpec(steps_per_round=1, batch_size=4, learning_rate=5e-3)


def files(folder: Path, part: str, orgs: tuple[str, ...]) -> dict[str, Path]:
    return {
        org: write_texts(folder / f"{org}-{part}.jsonl", 20, ORGS.index(org) + 1) for org in orgs
    }


def job_of(folder: Path, base: Path, *orgs: str, **sections: Any) -> Job:
    """One round of one step, at hospitals with files of their own."""
    data = DataSpec(
        train=files(folder, "train", orgs), test=files(folder, "test", orgs), max_tokens=24
    )
    sites = SitesSpec(names=orgs, partition="file")
    job = JobSpec(name="tiny", seed=3, rounds=1)
    return make_job(folder, base, data=data, sites=sites, job=job, train=ONE_STEP, **sections)


def signed(job: Job) -> Envelope:
    people = [
        Participant(org=org, key=public_hex(KEYS[org].public_key()), sites=(org,))
        for org in job.sites.names
    ]
    envelope = wrap(propose(resolve(job), people))
    for org in job.sites.names:
        envelope = sign(envelope, KEYS[org])
    return envelope


class Overheard:
    """A site's worker, and the last update that it sent."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.sent: dict[str, np.ndarray[Any, Any]] = {}

    def answer(self, question: Frame) -> Frame:
        answer = self._worker.answer(question)
        if question.kind == "train":
            self.sent = load(bytes(answer.body))
        return answer


def run(job: Job, run_dir: Path) -> dict[str, Overheard]:
    """The sites' logs of jobs lie in the run folder, and stay there."""
    federation = make_federation(job, run_dir, signed(job))
    heard = {}
    for site, program in federation.sites.items():
        program._worker = heard[site] = Overheard(program._worker)
    federation.run(federation.aggregator())
    return heard


def adapter(run_dir: Path) -> dict[str, np.ndarray[Any, Any]]:
    return load_file(run_dir / "sites" / "north" / "adapter" / "adapter_model.safetensors")


def test_n_against_n_less_one(llama: Path, tmp_path: Path) -> None:
    """Subtraction gives exactly what west sent; with the log it is not to be had."""
    whole, less = job_of(tmp_path, llama, *ORGS), job_of(tmp_path, llama, "north", "south")
    west = run(whole, tmp_path / "run")["west"].sent
    together = adapter(tmp_path / "run")
    run(less, tmp_path / "elsewhere")  # sites that remember nothing
    without = adapter(tmp_path / "elsewhere")
    found = [3 * together[name] - 2 * without[name] for name in sorted(together)]
    sent = [west[name] for name in sorted(west)]  # the file's names are shorter, in the same order
    for mine, theirs in zip(found, sent, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    with pytest.raises(DifferenceReleaseError, match="differ by the part of west alone"):
        run(less, tmp_path / "run")
    run(whole, tmp_path / "run")  # the same again shows nothing new


def test_the_same_job_again_without_a_site(llama: Path, tmp_path: Path) -> None:
    """Where all sites are not needed, the network can leave one out of the repeat. Hosts have taken
    what their sites saw of the server, but not the logs of their jobs.
    """
    job = job_of(tmp_path, llama, *ORGS, network=NetworkSpec(min_sites=2))
    envelope = signed(job)
    federation = make_federation(job, tmp_path / "run", envelope)
    federation.run(federation.aggregator())
    for site in ORGS:
        for seen in (tmp_path / "run" / "jobs").glob(f"*-{site}-*.json"):
            seen.unlink()
    again = make_federation(job, tmp_path / "run", envelope)
    with pytest.raises(SiteLostError, match="north: this site took part in this very job"):
        again.run(
            again.aggregator(),
            network=lambda site, _way, _number, body: None if site == "west" else body,
        )


def test_a_resumed_release_is_no_repeat(llama: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, llama, *ORGS, network=NetworkSpec(min_sites=2))
    federation = make_federation(job, tmp_path / "run", signed(job))
    federation.run(federation.aggregator())
    federation.run(federation.aggregator(resume=True))
    assert federation.of("final")[1]["sites"]["north"]["outcome"] == "ok"


def test_a_split_job_without_a_site(llama: Path, tmp_path: Path) -> None:
    """Sites without a TEE remember under their own keys."""
    assert set(SPLIT_KEYS) == {"north", "south"}
    data = DataSpec(
        train=files(tmp_path, "train", ORGS[:2]), test=files(tmp_path, "test", ORGS[:2])
    )
    sites = SitesSpec(names=ORGS[:2], partition="file")
    job = make_split_job(tmp_path, llama, data=data, sites=sites, train=ONE_STEP)
    federation = make_split(job, tmp_path / "run")
    federation.run(federation.server())
    write_texts(data.train["south"], 20, 9)  # type: ignore[index]
    other = job.model_copy(update={"job": job.job.model_copy(update={"seed": 4})})
    with pytest.raises(DifferenceReleaseError, match="differ by the part of south alone"):
        make_split(other, tmp_path / "run")
