"""Whole runs of real processes with genuine evidence formats, made by a software TEE, and attacks.

Collector, verifier, handshake and sealing are the product's own. A loop stands in for the network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sealtune.attest import AppraisalPolicy, Attester, Kind
from sealtune.attest.errors import AttesterUnavailableError, BadChainError, KindNotAllowedError
from sealtune.attest.platforms import platform
from sealtune.attest.platforms.participant import ParticipantVerifier, participant_policy
from sealtune.channel.client import ClientHandshake
from sealtune.channel.server import ServerHandshake
from sealtune.cli.main import app
from sealtune.errors import ConfigError, SealtuneError, StorageError
from sealtune.federation.enclave_link import ServerEnclave, connect
from sealtune.job.local import Local
from sealtune.job.sections import JobSpec, ProtectionSpec, TrainSpec
from sealtune.job.spec import Job
from sealtune.launch.parties import admit_party
from sealtune.methods.federated.server import FederatedState
from sealtune.methods.split.server import SplitState
from sealtune.party.admit import Admitted
from sealtune.party.checkpoint import CheckpointFile, State
from sealtune.party.trust import check_machine
from tests.attest.authority import Authority
from tests.attest.software_tee import SoftwareTee
from tests.enclave.flow import SITES, make_job
from tests.enclave.split_flow import SplitFederation, make_split_job, sign_split
from tests.enclave.test_processes import Machine, Processes

ONE_ROUND: dict[str, Any] = {
    "train": TrainSpec(steps_per_round=1, batch_size=4, learning_rate=5e-3),
}

JOB = """
[job]
name = "tiny"
rounds = 1
[model]
path = "model"
[data]
train = "train.jsonl"
test = "test.jsonl"
[sites]
names = ["a", "b"]
partition = "dirichlet"
[protection]
attestation = "{kind}"
"""


def federated(folder: Path, base: Path, **kinds: str) -> Job:
    """A job of one round whose roles show evidence of these kinds."""
    job = JobSpec(name="tiny", seed=3, rounds=1)
    protection = ProtectionSpec(attestation=dict(kinds))
    return make_job(folder, base, job=job, protection=protection, **ONE_ROUND)


def split(folder: Path, base: Path) -> Job:
    job = JobSpec(name="tiny", method="split", seed=3, rounds=1)
    protection = ProtectionSpec(attestation="sev-snp")
    return make_split_job(folder, base, job=job, protection=protection, **ONE_ROUND)


@contextmanager
def guests(folder: Path, **kinds: Kind) -> Iterator[dict[str, SoftwareTee]]:
    """A software TEE for each role."""
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(SoftwareTee(folder / f"guest-{role}", kind))
            for role, kind in kinds.items()
        }


def policies(tees: Mapping[str, SoftwareTee]) -> dict[str, AppraisalPolicy]:
    return {role: tee.policy() for role, tee in tees.items()}


def inside(parties: dict[str, Local], tees: Mapping[str, SoftwareTee]) -> dict[str, Local]:
    """The parties' own files, with the folder of the guest that each runs in."""
    for role, tee in tees.items():
        place: dict[str, Any] = {"evidence_root": tee.root}
        if tee.collateral:
            place["collateral"] = tee.root / "collateral.json"
            place["collateral"].write_bytes(tee.collateral)
        for name, local in parties.items():
            if local.role == role:
                parties = parties | {name: local.model_copy(update=place)}
    return parties


@contextmanager
def started(kind: type[Processes], parties: dict[str, Local]) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="st-") as sockets:
        machine = kind(parties, Path(sockets))
        try:
            yield machine
        finally:
            machine.close()


def run(machine: Processes) -> None:
    """The whole job."""
    machine.wait_ready()
    with ServerEnclave(connect(str(machine.socket("server")))) as server:
        while machine.exchange(server):
            pass
    assert machine.server.end() == 0
    assert [event["round"] for event in machine.server.of("round")] == [0, 1]


def verdicts(machine: Processes) -> set[tuple[str, str, str, bool]]:
    events = [event for process in machine.all for event in process.of("attested")]
    return {(e["by"], e["who"], e["kind"], e["confidential"]) for e in events}


def checkpoint(machine: Processes, state: type[State], **change: Any) -> CheckpointFile[Any]:
    """What the server left, with the key of a server that is started anew."""
    server = admit_party(machine.parties["server"].model_copy(update=change))
    job_id = bytes.fromhex(server.job_id)
    return CheckpointFile(server.state_folder, server.sealing_key, job_id, state)


@pytest.mark.slow
def test_a_federated_run_on_tdx_and_sev_snp(llama: Path, tmp_path: Path) -> None:
    """The server's guest is TDX, whose state ends with its process; the sites' are SEV-SNP."""
    job = federated(tmp_path, llama, server="tdx", site="sev-snp")
    with guests(tmp_path, server=Kind.TDX, site=Kind.SEV_SNP) as tees:
        parties = sign_split(job, tmp_path / "run", given=policies(tees))
        with started(Machine, inside(parties, tees)) as machine:
            run(machine)
            assert verdicts(machine) == {
                *(("server", site, "sev-snp", False) for site in SITES),
                *((site, "server", "tdx", False) for site in SITES),
            }
            for resume in (True, "auto"):
                with pytest.raises(StorageError, match="TDX guest has no sealing key: what the"):
                    checkpoint(machine, FederatedState, resume=resume)
            with pytest.raises(StorageError, match="does not open"):
                checkpoint(machine, FederatedState).load()


@pytest.mark.slow
def test_a_split_run_on_sev_snp(llama: Path, tmp_path: Path) -> None:
    """The server's guest is SEV-SNP, whose key seals its state; sites have no TEE and sign."""
    with guests(tmp_path, server=Kind.SEV_SNP) as tees:
        parties = sign_split(split(tmp_path, llama), tmp_path / "run", given=policies(tees))
        with started(Processes, inside(parties, tees)) as machine:
            run(machine)
            assert {v for v in verdicts(machine) if v[1] == "server"} == {
                (site, "server", "sev-snp", False) for site in SITES
            }
            saved = checkpoint(machine, SplitState, resume=True).load()
            assert saved
            assert saved.round == 1


# ---- attacks ------------------------------------------------------------------------------------


def prepared(
    folder: Path, base: Path, tee: SoftwareTee, **change: Any
) -> tuple[Admitted, dict[str, Local]]:
    """What a site of a split run admits, and all parties' files; ``change`` is of the policy."""
    given = {"server": tee.policy(**change)}
    parties = sign_split(split(folder, base), folder / "run", given=given)
    return admit_party(parties["north"]), inside(parties, {"server": tee})


def shake(server: Attester, site: Admitted) -> None:
    """A server with this evidence and a site meet; the server accepts who signs for the site."""
    peer = site.trust["server"]
    job_id = bytes.fromhex(site.job_id)
    accepted = participant_policy(site.manifest.participant("north").key)
    one = ServerHandshake(job_id, "north", server, ParticipantVerifier(), accepted)
    other = ClientHandshake(job_id, "north", peer.attester, peer.verifier, peer.policy)
    other.on_server_hello(one.on_hello(other.on_challenge(one.challenge())))


def attester(tee: SoftwareTee) -> Attester:
    return platform(tee.kind, tee.root).attester(bytes(48))


def test_a_manifest_must_name_the_test_root(llama: Path, tmp_path: Path) -> None:
    """The server does not start with it, and one that starts all the same convinces no site."""
    with SoftwareTee(tmp_path / "guest") as tee:
        site, parties = prepared(tmp_path, llama, tee, insecure_test_root=None)
        with pytest.raises(ConfigError, match="evidence_root: the manifest accepts no insecure"):
            admit_party(parties["server"])
        with pytest.raises(BadChainError, match="pinned root"):
            shake(attester(tee), site)


def test_another_test_root_is_refused(llama: Path, tmp_path: Path) -> None:
    with (
        SoftwareTee(tmp_path / "guest") as tee,
        SoftwareTee(tmp_path / "forger", vendor=Authority()) as forger,
    ):
        site, _ = prepared(tmp_path, llama, tee)
        shake(attester(tee), site)
        with pytest.raises(BadChainError, match="pinned root"):
            shake(attester(forger), site)


def test_another_measurement_gets_no_activations(llama: Path, tmp_path: Path) -> None:
    """The server runs in a genuine guest of other code: the run ends before any data moves."""
    with (
        SoftwareTee(tmp_path / "guest") as tee,
        SoftwareTee(tmp_path / "other", code=b"\xbb" * 48) as other,
    ):
        parties = sign_split(
            split(tmp_path, llama), tmp_path / "run", given={"server": tee.policy()}
        )
        run_dir = tmp_path / "run"
        federation = SplitFederation(inside(parties, {"server": other}), run_dir)
        for name in SITES:
            federation.start_site(name)
        with pytest.raises(SealtuneError, match="runs code bb"):
            federation.run(federation.server())
        assert not federation.of("upload")
        assert not federation.of("attested", "client:north")


def test_simulated_evidence_is_no_hardware(llama: Path, tmp_path: Path) -> None:
    with SoftwareTee(tmp_path / "guest") as tee:
        site, _ = prepared(tmp_path, llama, tee)
    with pytest.raises(KindNotAllowedError, match="simulated evidence is not accepted"):
        shake(platform(Kind.SIMULATED).attester(bytes(48)), site)


def test_collateral_that_is_not_there_is_named(llama: Path, tmp_path: Path) -> None:
    with SoftwareTee(tmp_path / "guest") as tee:
        _, parties = prepared(tmp_path, llama, tee)
        lost = parties["server"].model_copy(update={"collateral": tmp_path / "none.json"})
        with pytest.raises(ConfigError, match=r"collateral: .*none\.json cannot be read"):
            admit_party(lost)


def test_sites_that_sign_have_no_guest(llama: Path, tmp_path: Path) -> None:
    with SoftwareTee(tmp_path / "guest") as tee:
        _, parties = prepared(tmp_path, llama, tee)
    with pytest.raises(ConfigError, match="no insecure_test_root of the site"):
        admit_party(parties["north"].model_copy(update={"evidence_root": tmp_path / "guest"}))


def test_a_gpu_is_needed_where_the_policy_asks_for_one(tmp_path: Path) -> None:
    with SoftwareTee(tmp_path / "guest") as tee:
        protection = ProtectionSpec(attestation="sev-snp")
        check_machine(protection, "server", root=tee.root)
        with pytest.raises(AttesterUnavailableError, match="lacks /dev/nvidiactl: install"):
            check_machine(protection, "server", root=tee.root, gpu=True)


@pytest.mark.parametrize("kind", ["sev-snp", "tdx", "sgx"])
def test_a_machine_without_hardware_ends_before_any_work(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``sealtune run`` says what is missing, and leaves no folder behind."""
    if not platform(Kind(kind)).missing():
        pytest.skip("this machine has the hardware")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.toml").write_text(JOB.format(kind=kind))
    result = CliRunner().invoke(app, ["run", "job.toml"])
    assert result.exit_code == AttesterUnavailableError.exit_code
    said = " ".join(result.output.split())
    assert f"the server enclave must show {kind} evidence; this machine lacks" in said
    assert "/dev/" in said
    assert [path.name for path in tmp_path.iterdir()] == ["job.toml"]


def test_a_site_in_a_tdx_guest_remembers_under_its_key(llama: Path, tmp_path: Path) -> None:
    """TDX has no sealing key: without the organisation's there would be no log to believe."""
    job = federated(tmp_path, llama, server="tdx", site="tdx")
    with guests(tmp_path, server=Kind.TDX, site=Kind.TDX) as tees:
        parties = inside(sign_split(job, tmp_path / "run", given=policies(tees)), tees)
        north = parties["north"]
        with pytest.raises(ConfigError, match=r"key: is missing: a TDX guest has no sealing key"):
            admit_party(north.model_copy(update={"key": None}))
        admit_party(north).jobs.take_part(1)
        assert admit_party(north).jobs.path.exists()
