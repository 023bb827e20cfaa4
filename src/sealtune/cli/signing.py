"""What ``sealtune job`` and ``sealtune run`` share: propose a manifest, throw-away signatures.

Trust domain: operator (untrusted); nothing here is believed by an enclave.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.errors import ConfigError, DigestMismatchError, Problem
from sealtune.job.dsse import Envelope
from sealtune.job.key_files import is_name, load_public
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Manifest, Participant
from sealtune.job.method import method_of
from sealtune.job.proposal import sign, wrap

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from sealtune.attest import AppraisalPolicy
    from sealtune.job.pad_operators import PadAccelerator
    from sealtune.job.sections import ProtectionSpec
    from sealtune.job.settings import Settings
    from sealtune.job.spec import Job
    from sealtune.plan.resolve import Resolution

KEYS = "keys"  # folder of a run's throw-away keys, where they are kept
THROW_AWAY = "throw-away keys: the signatures prove nothing"


def propose(
    resolution: Resolution,
    participants: Sequence[Participant],
    given: Mapping[str, AppraisalPolicy] | None = None,
    **terms: Any,
) -> Manifest:
    """A manifest of ``resolution`` for the code installed here.

    Args:
        given: role -> accepted evidence; for roles left out, see ``expected_evidence``.
        terms: ``network``, ``pad_accelerators``, ``release``, ``epoch``, ``valid`` of
            ``make_manifest``.

    Raises:
        ConfigError: a role shows evidence of hardware and its policy is not given; or no round
            fits into the budget of privacy.
        ManifestError: a policy accepts code that nobody named, or not the kind that the job names.
    """
    from sealtune.accounting.terms import make_terms
    from sealtune.attest.measure import program_digest
    from sealtune.party.trust import accepted_evidence

    method, protection = resolution.job.job.rules.name, resolution.job.protection
    expected = expected_evidence(method, protection, given or {})
    rows = {site: data.train_rows for site, data in resolution.data.items()}
    manifest = resolution.manifest(
        participants=tuple(participants),
        code={
            program: program_digest(program).hex()
            for program in method_of(method).programs.values()
        },
        dp=make_terms(resolution.job.settings, rows),
        appraisal={role: policy.model_dump(mode="json") for role, policy in expected.items()},
        **terms,
    )
    accepted_evidence(manifest)
    return manifest


def expected_evidence(
    method: str, protection: ProtectionSpec, given: Mapping[str, AppraisalPolicy]
) -> dict[str, AppraisalPolicy]:
    """For each role that shows evidence, what is given, or simulated evidence of the code here.

    Raises:
        ConfigError: a role shows evidence of hardware, whose measurements must be given.
    """
    from sealtune.attest.measure import program_digest
    from sealtune.attest.platforms.simulated import simulated_policy

    expected: dict[str, AppraisalPolicy] = {}
    problems = []
    rules = method_of(method)
    for role in rules.attested:
        kind = protection.evidence(role)
        if role in given:
            expected[role] = given[role]
        elif kind == "simulated":
            expected[role] = simulated_policy(program_digest(rules.programs[role]))
        else:
            words = f"the {role} enclave shows {kind} evidence: --policy must name its measurements"
            problems.append(Problem("protection.attestation", words))
    if problems:
        raise ConfigError("the job", problems, hint="docs/attestation.md explains policies")
    return expected


def check_expected(manifest: Manifest, policy_file: Path | None) -> list[str]:
    """Hold code and accepted evidence of a manifest against what a participant means to accept,
    and what it says of differential privacy against what follows.

    Args:
        policy_file: accepted evidence; None: simulated enclaves of the code installed here.

    Returns:
        what was found right, in words.

    Raises:
        MalformedManifestError: its prompt template is none.
        WeakEvidenceError: it would accept code that nobody named.
        DigestMismatchError: other code, or other evidence than expected; other noise, or another
            table of what rounds cost, than follow from settings and rows.
    """
    from sealtune.accounting.terms import check_terms
    from sealtune.attest.files import load_policies
    from sealtune.job.spec import placed
    from sealtune.party.admit import check_code
    from sealtune.party.found import differing
    from sealtune.party.trust import accepted_evidence

    placed(manifest.settings)  # refuses settings that no party could make a job of
    accepted = accepted_evidence(manifest)
    check_code(manifest)
    given = {} if policy_file is None else load_policies(policy_file, list(accepted))
    expected = expected_evidence(manifest.method, manifest.settings.protection, given)
    other = [
        f"{role}.{key}"
        for role, policy in accepted.items()
        for key in differing(_by_kind(policy), _by_kind(expected[role]))
        # trials across hosts name each machine's development key, which nobody else knows
        if role in given or manifest.network is None or key != "simulated.signers"
    ]
    if other:
        source = "simulated enclaves of this code" if policy_file is None else str(policy_file)
        raise DigestMismatchError(
            f"the manifest accepts other evidence than {source}; these differ: {', '.join(other)}",
            hint="do not sign before you know why; --policy FILE says what you mean to accept",
        )
    checks = ["code: the sealtune that is installed here", "evidence: what is to be accepted"]
    if manifest.dp is not None:
        check_terms(manifest)
        checks.append("privacy: noise and epsilon of each round follow from settings and rows")
    return checks


def _by_kind(policy: AppraisalPolicy) -> dict[str, Any]:
    values: dict[str, Any] = policy.model_dump(mode="json")
    kinds = values.pop("kinds")
    return {**values, **kinds}


def throw_away(
    resolution: Resolution,
    keys: Mapping[str, Ed25519PrivateKey] | None = None,
    pad_key: Path | None = None,
) -> Envelope:
    """A manifest signed for every site with a key made for this run: for one machine.

    Args:
        keys: site -> key, where a site still needs it; default: keys that are forgotten at once.
        pad_key: file for the pad accelerator's key, if there is one; default: as the keys.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    keys = keys or {site: Ed25519PrivateKey.generate() for site in resolution.job.sites.names}
    participants = [
        Participant(org=site, key=public_hex(key.public_key()), sites=(site,))
        for site, key in keys.items()
    ]
    pads = simulated_pads(resolution.job.settings, pad_key)
    envelope = wrap(propose(resolution, participants, pad_accelerators=pads))
    for key in keys.values():
        envelope = sign(envelope, key)
    return envelope


def simulated_pads(settings: Settings, key_file: Path | None) -> dict[str, PadAccelerator]:
    """Each site's pad accelerator, run by whoever runs its accelerator: nobody is kept apart."""
    from sealtune.channel.hpke import KeyPair
    from sealtune.channel.pad_key import made_pad_key
    from sealtune.job.pad_operators import PadAccelerator

    if settings.protection.pads == "enclave":
        return {}
    pair = KeyPair.generate() if key_file is None else made_pad_key(key_file)
    one = PadAccelerator(
        operator="simulated-second",
        accelerator="simulated-first",
        key=pair.public_bytes.hex(),
        operators="simulated",
    )
    return dict.fromkeys(settings.sites.names, one)


def keys_of_sites(manifest: Manifest, files: Sequence[Path]) -> dict[str, Path]:
    """Site -> key file, for a job whose sites need keys to run; empty for others.

    Raises:
        KeyFileError: a file cannot be used.
        UnknownKeyError: a key that the manifest does not name.
        ConfigError: an organisation's key is missing.
    """
    from sealtune.errors import UnknownKeyError
    from sealtune.job.key_files import load_private

    if not sites_need_keys(manifest.settings):
        return {}
    owners = {participant.key: participant for participant in manifest.participants}
    key_files: dict[str, Path] = {}
    for file in files:
        owner = owners.pop(public_hex(load_private(file).public_key()), None)
        if owner is None:
            raise UnknownKeyError(
                f"the key in {file} is none of the manifest's, or was given twice",
                hint="give the private keys that signed the manifest",
            )
        key_files.update(dict.fromkeys(owner.sites, file))
    if owners:
        names = ", ".join(participant.org for participant in owners.values())
        raise ConfigError(
            "--key",
            [Problem(names, "the sites sign, or keep their log of jobs under it: give the file")],
            hint="all sites run on this machine here, so all keys are needed, one --key each",
        )
    return key_files


def key_options(manifest: Manifest, files: Iterable[Path] | None = None) -> str:
    """The ``--key`` arguments that a command of this job needs; empty if it needs none.

    Args:
        files: the organisations' private keys; default: each under its organisation's name.
    """
    if not sites_need_keys(manifest.settings):
        return ""
    names = files or [Path(f"{participant.org}.key") for participant in manifest.participants]
    return "".join(f" --key {shlex.quote(str(name))}" for name in dict.fromkeys(names))


def sites_need_keys(settings: Settings) -> bool:
    """Whether sites run with their organisations' private keys: to sign who they are, or because
    their enclaves have no sealing key to keep a log of jobs under.
    """
    from sealtune.attest.evidence import Kind
    from sealtune.attest.platforms import platform

    if settings.job.rules.sites_sign:
        return True
    return not platform(Kind(settings.protection.evidence("site"))).keeps_state


def check_jobs(envelope: Envelope, keys: Mapping[str, Path]) -> None:
    """Whether all sites of this machine may take part, beside the jobs in which they did before.

    Args:
        keys: site -> key file.

    Raises:
        DifferenceReleaseError, RollbackError, StorageError: see ``check_remembered``.
    """
    from sealtune.attest.platforms.base import MACHINE
    from sealtune.cli.job_remembered import check_remembered
    from sealtune.job.key_files import load_private
    from sealtune.job.manifest import open_manifest

    manifest = open_manifest(envelope)
    for site in manifest.settings.sites.names:
        key = load_private(keys[site]) if site in keys else None
        check_remembered(manifest, site, None, key, MACHINE, anew=True)


def kept_keys(run_dir: Path, job: Job) -> dict[str, Path]:
    """The throw-away keys that lie in a run folder, if it has any."""
    files = {site: run_dir / KEYS / f"{site}.key" for site in job.sites.names}
    return files if all(file.is_file() for file in files.values()) else {}


def read_participants(job: Job, given: Sequence[str]) -> list[Participant]:
    """Who takes part, from ``ORG=KEY.pub`` or ``ORG:SITE,SITE=KEY.pub``; one for every site.

    Nothing given: each site answers for itself with the key ``SITE.pub`` in the current folder.

    Raises:
        ConfigError: lists everything that is wrong with the words given.
        KeyFileError: a key cannot be used.
    """
    words = list(given) or [f"{site}={site}.pub" for site in job.sites.names]
    names = job.sites.names
    problems: list[Problem] = []
    accepted: list[tuple[str, tuple[str, ...], str]] = []
    for word in words:
        who, equals, file = word.partition("=")
        org, colon, listed = who.partition(":")
        sites = tuple(listed.split(",")) if colon else (org,)
        unknown = [site for site in sites if site not in names]
        if not (equals and file):
            problems.append(Problem(word, "should look like ORG=KEY.pub or ORG:SITE,SITE=KEY.pub"))
        elif not is_name(org):
            problems.append(Problem(word, "ORG should be lower-case letters, digits and hyphens"))
        elif unknown:
            advice = f"; write {org}:SITE={file}" if not colon else ""
            there = ", ".join(names)
            problems.append(
                Problem(word, f"the job has no site {', '.join(unknown)}, but {there}{advice}")
            )
        else:
            accepted.append((org, sites, file))
    covered = [site for _, sites, _ in accepted for site in sites]
    for site in names:
        if covered.count(site) != 1 and not problems:
            how = "nobody answers for this site" if site not in covered else "stands there twice"
            problems.append(Problem(site, how))
    if problems:
        raise ConfigError("--participant", problems, hint="`sealtune job build -h` has examples")
    return [
        Participant(org=org, key=public_hex(load_public(Path(file))), sites=sites)
        for org, sites, file in accepted
    ]


def check_keys(manifest: Manifest, given: Sequence[str]) -> None:
    """Hold the manifest's keys against keys that are known from elsewhere, ``ORG=KEY.pub`` each.

    Raises:
        ConfigError: not of this form.
        UnknownKeyError: the manifest names another key for that organisation, or none.
    """
    from sealtune.errors import UnknownKeyError

    keys = {participant.org: participant.key for participant in manifest.participants}
    for word in given:
        org, equals, file = word.partition("=")
        org = org.partition(":")[0]
        if not (equals and org and file):
            raise ConfigError("--participant", [Problem(word, "should look like ORG=KEY.pub")])
        if keys.get(org) != public_hex(load_public(Path(file))):
            raise UnknownKeyError(
                f"the manifest does not name the key in {file} for '{org}'",
                hint="somebody else may have put their key in: ask that organisation",
            )
