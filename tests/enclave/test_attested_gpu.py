"""A GPU that is a part of an enclave: whoever computes on it proves it, in the same handshake.

Enclaves are guests of a software TEE, GPUs those of a made-up NVIDIA behind a fake NVML.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealtune.attest import AppraisalPolicy, Attester, Evidence, Kind, KindPolicy
from sealtune.attest.errors import (
    AttesterUnavailableError,
    BadChainError,
    GpuEvidenceError,
    UnknownMeasurementError,
    WrongReportDataError,
)
from sealtune.attest.platforms import platform
from sealtune.cli.signing import check_expected
from sealtune.errors import ConfigError, SealtuneError, WeakEvidenceError
from sealtune.job.dsse import Envelope
from sealtune.job.local import Local
from sealtune.job.manifest import open_manifest
from sealtune.job.sections import JobSpec, ProtectionSpec
from sealtune.job.spec import Job
from sealtune.launch.parties import admit_party
from sealtune.launch.preflight import preflight
from sealtune.model.compute import Compute
from sealtune.party import trust
from sealtune.party.admit import Admitted
from tests.attest import gpu
from tests.attest.authority import Authority
from tests.attest.software_tee import SoftwareTee
from tests.attest.test_collect import FakeNvml
from tests.enclave.flow import SITES, make_job
from tests.enclave.split_flow import SplitFederation, make_split_job, sign_split
from tests.enclave.test_hardware_evidence import ONE_ROUND, inside, shake


class Nvml(FakeNvml):
    """A GPU whose reports are signed; ``nonce``: it answers with that report, whatever is asked."""

    __spec__ = importlib.machinery.ModuleSpec("pynvml", None)

    def __init__(self, *, nonce: bytes = b"", vendor: Authority = gpu.VENDOR, **state: int) -> None:
        super().__init__(1, **state)
        self.key, self.chain = gpu.device(vendor=vendor)
        self.nonce = nonce

    def nvmlDeviceGetConfComputeGpuAttestationReport(
        self, handle: int, nonce: bytes
    ) -> SimpleNamespace:
        raw = gpu.report(self.key, nonce=self.nonce or nonce)
        return SimpleNamespace(attestationReport=list(raw), attestationReportSize=len(raw))

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: int) -> SimpleNamespace:
        chain = list(self.chain)
        return SimpleNamespace(attestationCertChain=chain, attestationCertChainSize=len(chain))


@pytest.fixture
def tee(tmp_path: Path) -> Iterator[SoftwareTee]:
    """A guest that sees a GPU."""
    with SoftwareTee(tmp_path / "guest") as tee:
        for name in ("nvidiactl", "nvidia0"):
            (tee.root / "dev" / name).touch()
        yield tee


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """The machine's GPU."""
    made = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)  # type: ignore[arg-type]
    return made


def gpu_policy(**change: Any) -> KindPolicy:
    (root,) = gpu.VENDOR.roots
    settings: dict[str, Any] = {
        "measurements": (gpu.verify(gpu.one()).measurement,),
        "tcb_statuses": ("Unchecked",),
        "insecure_test_root": root.hex(),
    }
    return KindPolicy(**settings | change)


def with_gpu(tee: SoftwareTee, **change: Any) -> AppraisalPolicy:
    kinds = {**tee.policy().kinds, Kind.NVIDIA_GPU: gpu_policy(**change)}
    return AppraisalPolicy(kinds=kinds, gpu_required=True)


def split(folder: Path, base: Path) -> Job:
    """A split job whose server computes on its GPU."""
    job = JobSpec(name="tiny", method="split", seed=3, rounds=1)
    protection = ProtectionSpec(attestation="sev-snp", compute="attested-gpu")
    return make_split_job(folder, base, job=job, protection=protection, **ONE_ROUND)


def prepared(folder: Path, base: Path, tee: SoftwareTee) -> tuple[Admitted, dict[str, Local]]:
    """What a site admits, and all parties' files."""
    parties = sign_split(split(folder, base), folder / "run", given={"server": with_gpu(tee)})
    return admit_party(parties["north"]), inside(parties, {"server": tee})


def attester(tee: SoftwareTee) -> Attester:
    """A server's, with its GPU."""
    own = platform(tee.kind, tee.root)
    return own.attester(bytes(48), gpu=platform(Kind.NVIDIA_GPU, tee.root))


def test_a_run_with_a_gpu(
    llama: Path, tmp_path: Path, tee: SoftwareTee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor computes in the place of CUDA; all evidence is made and appraised."""
    monkeypatch.setattr(Compute, "open", lambda device, precision: Compute(precision=precision))
    _, parties = prepared(tmp_path, llama, tee)
    federation = SplitFederation(parties, tmp_path / "run")
    for site in SITES:
        federation.start_site(site)
    federation.run(federation.server())
    assert federation.of("final")
    for site in SITES:
        (seen,) = {(e["kind"], e["gpus"]) for e in federation.of("attested") if e["by"] == site}
        assert seen == ("sev-snp", 1)


# ---- attacks: nobody can sign, or start, a job whose GPU proves nothing ----------------------


def test_no_manifest_leaves_the_gpu_out(
    llama: Path, tmp_path: Path, tee: SoftwareTee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: the coordinator builds a job on an "attested" GPU of which no evidence is needed."""
    job, given = split(tmp_path, llama), {"server": tee.policy()}
    with pytest.raises(WeakEvidenceError, match=r'computes on a GPU \(compute = "attested-gpu"\)'):
        sign_split(job, tmp_path / "run", given=given)
    # their own tools leave the check out: no honest organisation signs, and no program starts
    with monkeypatch.context() as patch:
        patch.setattr(trust, "_demand_gpu", lambda *_: None)
        parties = sign_split(job, tmp_path / "run", given=given)
    manifest = open_manifest(Envelope.read(parties["north"].manifest))
    with pytest.raises(WeakEvidenceError, match="no evidence: whoever has the GPU would see"):
        check_expected(manifest, None)
    for party in parties.values():
        if party.role != "coordinator":
            with pytest.raises(WeakEvidenceError, match="has the GPU would see"):
                admit_party(party)


def test_an_optional_gpu_is_none(llama: Path, tmp_path: Path, tee: SoftwareTee) -> None:
    """Attack: evidence of a GPU is accepted, and not required."""
    policy = with_gpu(tee).model_copy(update={"gpu_required": False})
    with pytest.raises(WeakEvidenceError, match="gpu_required"):
        sign_split(split(tmp_path, llama), tmp_path / "run", given={"server": policy})


def test_each_site_of_a_federated_job_proves_its_gpu(
    llama: Path, tmp_path: Path, tee: SoftwareTee
) -> None:
    protection = ProtectionSpec(attestation="sev-snp", compute="attested-gpu")
    job = make_job(tmp_path, llama, protection=protection, **ONE_ROUND)
    plain, full = tee.policy(), with_gpu(tee)
    with pytest.raises(WeakEvidenceError, match="the site computes on a GPU"):
        sign_split(job, tmp_path / "run", given={"server": full, "site": plain})
    # the aggregator computes on none
    parties = inside(
        sign_split(job, tmp_path / "run", given={"server": plain, "site": full}), {"site": tee}
    )
    assert admit_party(parties["north"]).device == "cuda"
    (tee.root / "dev/nvidia0").unlink()
    with pytest.raises(AttesterUnavailableError, match="lacks /dev/nvidia0"):
        admit_party(parties["north"])
    rows = {row.what: row for row in preflight(parties["north"])}
    assert isinstance(rows["evidence"].error, AttesterUnavailableError)


def test_the_processor_is_no_stand_in_where_evidence_is_real(
    llama: Path, tmp_path: Path, tee: SoftwareTee
) -> None:
    _, parties = prepared(tmp_path, llama, tee)
    with pytest.raises(ConfigError, match='device: is "cpu", but everybody signed'):
        admit_party(parties["server"].model_copy(update={"device": "cpu"}))


# ---- attacks: the server enclave is genuine, its GPU is not ----------------------------------


def refused(site: Admitted, server: Attester, kind: type[SealtuneError], words: str) -> None:
    with pytest.raises(kind, match=words):
        shake(server, site)


def test_without_a_gpu_there_is_no_channel(llama: Path, tmp_path: Path, tee: SoftwareTee) -> None:
    site, _ = prepared(tmp_path, llama, tee)
    shake(attester(tee), site)
    bare = platform(tee.kind, tee.root).attester(bytes(48))
    refused(site, bare, GpuEvidenceError, "asks for an attested GPU and none was shown")


@pytest.mark.parametrize(
    ("state", "words"),
    [({"ccFeature": 0}, "switched off"), ({"devToolsMode": 1}, "developer tools are on")],
)
def test_a_gpu_that_its_host_can_read(
    llama: Path, tmp_path: Path, tee: SoftwareTee, nvml: Nvml, state: dict[str, int], words: str
) -> None:
    """Attack: the host switches the mode after the guest has been admitted."""
    site, parties = prepared(tmp_path, llama, tee)
    server = admit_party(parties["server"]).trust["north"].attester
    shake(server, site)
    for name, value in state.items():
        setattr(nvml.state, name, value)
    refused(site, server, AttesterUnavailableError, words)


def test_a_report_of_another_handshake(
    llama: Path, tmp_path: Path, tee: SoftwareTee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: a genuine report that was asked for elsewhere, or before."""
    site, _ = prepared(tmp_path, llama, tee)
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(nonce=bytes(32)))  # type: ignore[arg-type]
    refused(site, attester(tee), WrongReportDataError, "another nonce")


def test_another_vendors_gpu(
    llama: Path, tmp_path: Path, tee: SoftwareTee, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, _ = prepared(tmp_path, llama, tee)
    forged = Nvml(vendor=Authority())
    monkeypatch.setitem(sys.modules, "pynvml", forged)  # type: ignore[arg-type]
    refused(site, attester(tee), BadChainError, "pinned root")


def test_other_firmware(llama: Path, tmp_path: Path, tee: SoftwareTee) -> None:
    given = {"server": with_gpu(tee, measurements=("ab" * 48,))}
    parties = sign_split(split(tmp_path, llama), tmp_path / "run", given=given)
    site = admit_party(parties["north"])
    refused(site, attester(tee), UnknownMeasurementError, "nvidia-gpu enclave runs code")


class _GpuAlone:
    """A GPU that says it is an enclave."""

    kind = Kind.NVIDIA_GPU

    def collect(self, report_data: bytes) -> Evidence:
        data, _ = platform(Kind.NVIDIA_GPU, self.root).collect(report_data[:32])
        return Evidence(Kind.NVIDIA_GPU, data)

    def collect_gpu(self, nonce: bytes) -> bytes:
        return platform(Kind.NVIDIA_GPU, self.root).collect(nonce)[0]

    def __init__(self, root: Path) -> None:
        self.root = root


def test_a_gpu_alone_is_no_enclave(llama: Path, tmp_path: Path, tee: SoftwareTee) -> None:
    """Attack: the host asks its own GPU, without any enclave."""
    site, _ = prepared(tmp_path, llama, tee)
    refused(site, _GpuAlone(tee.root), WrongReportDataError, "another nonce")


def test_under_nvidias_root_a_made_up_gpu_is_refused(
    llama: Path, tmp_path: Path, tee: SoftwareTee
) -> None:
    """A test root is the job's, and never that of one part of an enclave alone."""
    policy = with_gpu(tee, insecure_test_root=None)
    with pytest.raises(WeakEvidenceError, match="sev-snp under a test root evidence beside"):
        sign_split(split(tmp_path, llama), tmp_path / "run", given={"server": policy})
    policy = AppraisalPolicy(kinds={Kind.NVIDIA_GPU: policy.kinds[Kind.NVIDIA_GPU]})
    with pytest.raises(BadChainError, match="pinned root"):
        platform(Kind.NVIDIA_GPU).verifier().verify(
            Evidence(Kind.NVIDIA_GPU, gpu.one()),
            report_data=gpu.NONCE,
            policy=policy,
            at=datetime.now(UTC),
        )
