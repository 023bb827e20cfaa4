"""What a party of a job shows its peers, what it accepts of them, and the key for its own files.

    federated   each site's enclave and the server enclave show evidence and appraise the other's
    split       the server enclave shows evidence; a site, which has no TEE, signs with its key
    secure      sites sign; the server shows nothing, and is not believed (``secure_sum``)
    aggregation

Trust domain: every enclave; data owner (split, secure aggregation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest import AppraisalPolicy, Attester, Verifier
from sealtune.attest.appraise import Appraiser
from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Kind
from sealtune.attest.measure import program_digest
from sealtune.attest.platforms import platform
from sealtune.attest.platforms.base import MACHINE, Platform
from sealtune.attest.policy import parse_policy
from sealtune.attest.strength import check_strength
from sealtune.errors import MalformedManifestError, UnknownKeyError, WeakEvidenceError
from sealtune.job.compute_rules import GPU, is_gpu_stand_in
from sealtune.job.manifest import Manifest
from sealtune.job.method import Attested, method_of
from sealtune.job.sections import ProtectionSpec

SERVER: Attested = "server"


@dataclass(frozen=True)
class Trust:
    """What is shown to one peer and accepted of it.

    Attributes:
        attester: makes own evidence.
        verifier: appraises the peer's.
        policy: what is accepted.
    """

    attester: Attester
    verifier: Verifier
    policy: AppraisalPolicy


def read_policies(manifest: Manifest) -> dict[str, AppraisalPolicy]:
    """For each role that shows evidence, what the manifest says of it.

    Raises:
        MalformedManifestError: it is no policy.
    """
    return {
        role: parse_policy(content, f"appraisal.{role}")
        for role, content in manifest.appraisal.items()
    }


def accepted_evidence(manifest: Manifest) -> dict[str, AppraisalPolicy]:
    """For each role that shows evidence, what is accepted of it: what was signed, nothing else.

    Raises:
        MalformedManifestError: a policy is none, or not of the kind that the job's settings name.
        WeakEvidenceError: one accepts code that nobody named, a kind that nobody of the job shows,
            what can be forged beside the hardware of another role, or no evidence of the GPU that
            the job's settings make a part of an enclave.
    """
    policies = read_policies(manifest)
    for role in method_of(manifest.method).attested:
        policy = policies[role]
        check_strength(policy)
        kind = Kind(manifest.settings.protection.evidence(role))
        if kind not in policy.kinds:
            raise MalformedManifestError(
                f"the job manifest at appraisal.{role}: protection.attestation is {kind}, which "
                f"is not accepted, but {', '.join(policy.kinds)}",
                hint="build it with the --policy of that kind of evidence",
            )
        others = [str(one) for one in policy.kinds if one not in (kind, Kind.NVIDIA_GPU)]
        if others:  # no enclave of the job shows them, so only a stranger's could
            raise WeakEvidenceError(
                f"the job accepts {', '.join(others)} evidence of the {role} beside {kind}, which "
                "is what protection.attestation names",
                hint="accept one kind of each role",
            )
    _demand_gpu(manifest, policies)
    forgeable = [role for role, policy in policies.items() if not policy.confidential]
    if forgeable and len(forgeable) < len(policies):
        raise WeakEvidenceError(
            f"the job accepts hardware's evidence of one role, and of the {forgeable[0]} what "
            "anybody can forge: whoever does is given what the others protect",
            hint="name hardware for every role, or none of it, for a trial",
        )
    return policies


def _demand_gpu(manifest: Manifest, policies: Mapping[str, AppraisalPolicy]) -> None:
    """A GPU that is a part of an enclave proves itself with it, but in a simulated run."""
    settings, role = manifest.settings, manifest.settings.job.rules.trains
    if settings.compute != GPU or is_gpu_stand_in(settings):
        return
    if not policies[role].gpu_required:
        raise WeakEvidenceError(
            f'the {role} computes on a GPU (compute = "{GPU}"), of which the job accepts no '
            "evidence: whoever has the GPU would see all that the enclave hides",
            hint='its policy needs "gpu_required": true and a kind "nvidia-gpu"',
        )


def check_machine(
    protection: ProtectionSpec, *roles: Attested, root: Path = MACHINE, gpu: bool = False
) -> None:
    """Whether this machine can show what the enclaves of ``roles`` must.

    Args:
        root: of the file system with the machine's devices.
        gpu: whether it must show a GPU, too.

    Raises:
        AttesterUnavailableError: lists what is missing.
    """
    for role in roles:
        kind = Kind(protection.evidence(role))
        missing = platform(kind, root).missing()
        if gpu:
            missing += platform(Kind.NVIDIA_GPU, root).missing()
        if missing:
            raise AttesterUnavailableError(
                f"the {role} enclave must show {kind} evidence; this machine lacks "
                f"{'; '.join(missing)}",
                hint='protection.attestation = "simulated" needs no hardware: for trials',
            )


def make_trust(
    manifest: Manifest,
    role: Attested,
    policies: Mapping[str, AppraisalPolicy],
    key: Ed25519PrivateKey | None,
    root: Path,
    collateral: bytes = b"",
) -> dict[str, Trust]:
    """What the party of ``role`` shows each of its peers, by their names, and accepts of them.

    Args:
        policies: of ``accepted_evidence``.
        key: the organisation's; for a role that shows no evidence.
        root: of the file system with the machine's devices.
        collateral: vendor data to go with own evidence.

    Raises:
        AttesterUnavailableError: this machine cannot make such evidence.
        UnknownKeyError: there is no key, and it is needed.
    """
    attester: Attester
    if role in policies:
        with_gpu = policies[role].gpu_required
        check_machine(manifest.settings.protection, role, root=root, gpu=with_gpu)
        attester = own_platform(manifest, role, root).attester(
            program_digest(manifest.programs[role]),
            collateral=collateral,
            gpu=platform(Kind.NVIDIA_GPU, root) if with_gpu else None,
        )
    elif role == SERVER:
        from sealtune.attest.platforms.unattested import UnattestedAttester

        attester = UnattestedAttester()
    elif key is not None:
        from sealtune.attest.platforms.participant import ParticipantAttester

        attester = ParticipantAttester(key)
    else:
        raise UnknownKeyError("a party that shows no evidence signs with its key: there is none")
    if role == "site" and SERVER not in policies:
        from sealtune.attest.platforms.unattested import UnattestedVerifier, unattested_policy

        return {SERVER: Trust(attester, UnattestedVerifier(), unattested_policy())}
    if role == "site":
        return {SERVER: Trust(attester, Appraiser(), policies[SERVER])}
    sites = manifest.settings.sites.names
    if "site" in policies:
        return {site: Trust(attester, Appraiser(), policies["site"]) for site in sites}
    from sealtune.party.signer import accepted_keys

    return {site: Trust(attester, *keys) for site, keys in accepted_keys(manifest).items()}


def sealing_key(manifest: Manifest, job_id: str, root: Path) -> bytes:
    """32 bytes with which the server seals files for itself.

    Raises:
        AttesterUnavailableError: its TEE has none.
    """
    if SERVER in method_of(manifest.method).attested:
        return own_platform(manifest, SERVER, root).sealing_key()
    from sealtune.attest.platforms.unattested import open_key

    return open_key(bytes.fromhex(job_id))


def own_platform(manifest: Manifest, role: Attested, root: Path) -> Platform:
    """The kind of TEE that the enclave of ``role`` runs in."""
    return platform(Kind(manifest.settings.protection.evidence(role)), root)
