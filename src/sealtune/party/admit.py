"""The decision: from a signed manifest and one party's own file to a program that may start.

    admitted = admit(local, AGGREGATOR)    # raises, or all of it is right

There is no other way to an ``Admitted``, and programs take nothing else. The single checks serve
people before they sign or start a run, too, so that the answer is the same wherever it is asked.

Trust domain: every enclave; data owner; operator, for the accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sealtune.attest.measure import program_digest
from sealtune.attest.platforms.base import MACHINE
from sealtune.errors import (
    ConfigError,
    DigestMismatchError,
    ModelError,
    Problem,
)
from sealtune.job.compute_rules import Device, device_of
from sealtune.job.dsse import Envelope
from sealtune.job.local import Local, Side
from sealtune.job.manifest import Manifest, job_id, verify_manifest
from sealtune.job.method import method_of
from sealtune.job.plan import SlicePlan
from sealtune.job.settings import Settings
from sealtune.party.trust import (
    SERVER,
    Trust,
    accepted_evidence,
    make_trust,
    own_platform,
    sealing_key,
)

if TYPE_CHECKING:
    from sealtune.job.authenticated_file import OwnFiles
    from sealtune.job.spec import Job
    from sealtune.party.continuity import Continuity
    from sealtune.party.job_log import JobLog


class Holdings(Protocol):
    """What a party holds of a job, loaded and checked."""

    @property
    def job(self) -> Job:
        """The signed settings, with this party's places."""

    @property
    def plan(self) -> SlicePlan:
        """The slice plan, worked out anew from the model here."""


@dataclass(frozen=True)
class Role:
    """What a program is in a job.

    Attributes:
        side: which party it is of.
        program: its name in the manifest's ``code``; empty for one that nobody has to trust.
        needs: keys of the local file that it cannot do without.
        holds: loads what it holds of the job and compares it with the manifest; None: it holds
            nothing.
        contributes: whether its data goes into the result, so that it remembers the job.
    """

    side: Side
    program: str
    needs: tuple[str, ...] = ()
    holds: Callable[[Manifest, Local], Holdings] | None = None
    contributes: bool = False


AGGREGATOR = Role("server", "aggregator")
SUMMING_SERVER = Role("server", "secagg-server")


@dataclass(frozen=True)
class Admitted:
    """A job that this party takes part in; everything in it has been checked.

    Attributes:
        local: the party's own file.
        manifest: what every participant signed.
        job_id: SHA-384 of the manifest's bytes, 96 hex digits.
        plan: where each module runs.
        trust: peer -> what is shown to it and accepted of it.
        holdings: what the role's ``holds`` returned, or None.
        sealing_key: 32 bytes that only this kind of enclave on this machine can get (TDX: this
            process alone; a server without a TEE: anybody); empty for a party that seals no files.
        job_log: where a site that contributes remembers its jobs.
        resumes: whether this server goes on from what it sealed before.
        continuity: what a site has seen of the server enclave; None where it believes no server.
        files: what a site keeps on its own machine.
        device: where it computes with the model that it holds.
    """

    local: Local
    manifest: Manifest
    job_id: str
    plan: SlicePlan
    trust: Mapping[str, Trust] = field(repr=False)
    holdings: Any = field(repr=False)
    sealing_key: bytes = field(default=b"", repr=False)
    job_log: JobLog | None = field(default=None, repr=False)
    resumes: bool = False
    continuity: Continuity | None = field(default=None, repr=False)
    files: OwnFiles | None = field(default=None, repr=False)
    device: Device = "cpu"

    @property
    def settings(self) -> Settings:
        """The signed settings."""
        return self.manifest.settings

    @property
    def job(self) -> Job:
        """The same with this party's places, of a role that holds something."""
        held: Job = self.holdings.job
        return held

    @property
    def site(self) -> str:
        """This site's name; empty for another party."""
        return self.local.site or ""

    @property
    def jobs(self) -> JobLog:
        """Where a site remembers its jobs.

        Raises:
            ModelError: the party contributes nothing.
        """
        if self.job_log is None:
            raise ModelError("a party that contributes nothing keeps no log of jobs")
        return self.job_log

    @property
    def own(self) -> OwnFiles:
        """What a site keeps on its own machine.

        Raises:
            ModelError: the party is no site.
        """
        if self.files is None:
            raise ModelError("a party that is no site remembers nothing")
        return self.files

    @property
    def is_spare(self) -> bool:
        """Whether the job can go on without this site."""
        return self.settings.quorum < self.settings.asked

    @property
    def state_folder(self) -> Path:
        """Where this enclave's sealed files are."""
        return (self._own_folder if self.local.site else self.local.folder) / "state"

    @property
    def adapter_folder(self) -> Path:
        """Where the released adapter goes that this site's owner gets."""
        return self._own_folder / "adapter"

    @property
    def personal_folder(self) -> Path:
        """Where the adapter goes that this site's enclave went on with by itself."""
        return self._own_folder / "adapter-personal"

    @property
    def _own_folder(self) -> Path:
        return self.local.folder / "sites" / self.site

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their numbers; empty for ``causal-lm``."""
        return self.manifest.labels

    @property
    def model_digest(self) -> str:
        """Hex digest of the base model."""
        return self.manifest.model.digest

    @property
    def cut(self) -> int:
        """Blocks at the sites of a split job.

        Raises:
            ModelError: the slice plan is another method's.
        """
        if self.plan.cut is None:
            raise ModelError("the slice plan is not that of a split job")
        return self.plan.cut


def admit(local: Local, role: Role) -> Admitted:
    """Check everything that decides whether this party's program may start, in this order.

    Args:
        local: the party's own file.
        role: what the program is in the job.

    Raises:
        ManifestError: the manifest, its signatures, time or terms; the key; the code; the evidence
            that is accepted; its result less that of an earlier job would show the part of too few
            organisations; what lies here is not what was signed.
        ConfigError: the local file is not one of this program, or of a party of this job.
        AttestationError: this machine cannot make the evidence that it has to show.
        StorageError: it is to go on from sealed files, and its kind of TEE has no key that lasts;
            or what the site remembers of its jobs is not as it wrote it.
        ModelError, DataError, StorageError: files that cannot be used at all.
    """
    envelope = Envelope.read(local.manifest)
    manifest, identity = verify_manifest(envelope), job_id(envelope.payload)
    _check_party(manifest, local, role)
    key = None
    if local.key is not None:
        from sealtune.job.key_files import load_private
        from sealtune.party.signer import check_key

        key = load_private(local.key)
        check_key(manifest, local.site or "", key)
    if role.program:
        check_code(manifest, role.program)
    policies = accepted_evidence(manifest)
    trust: dict[str, Trust] = {}
    own_key, resumes = b"", False
    if role.side in (SERVER, "site"):
        root, collateral = MACHINE, b""
        if local.evidence_root or local.collateral:
            from sealtune.party.hardware import devices, read_collateral

            root = devices(manifest, role.side, policies, local.evidence_root)
            collateral = read_collateral(local)
        trust = make_trust(manifest, role.side, policies, key, root, collateral)
    if role.side == SERVER:
        resumes = _resumes(local)
        if SERVER in policies and (resumes or local.serve):
            from sealtune.party.reopening import check_reopening

            check_reopening(manifest.settings.protection)
        own_key = sealing_key(manifest, identity, root)
    elif role.side == "site" and manifest.plan.personal:
        own_key = own_platform(manifest, "site", root).sealing_key()
    jobs = continuity = files = None
    if role.side == "site":
        from sealtune.party.own_files import own_files

        files = own_files(manifest, local.site or "", local.history, key, root)
        if SERVER in policies:
            from sealtune.party.continuity import own_continuity

            continuity = own_continuity(identity, files)
            continuity.check()
        if role.contributes:
            from sealtune.party.job_log import own_log

            jobs = own_log(manifest, identity, files)
            jobs.check()
    holdings = role.holds(manifest, local) if role.holds else None
    return Admitted(
        local=local,
        manifest=manifest,
        job_id=identity,
        plan=holdings.plan if holdings else manifest.plan,
        trust=trust,
        holdings=holdings,
        sealing_key=own_key,
        job_log=jobs,
        resumes=resumes,
        continuity=continuity,
        files=files,
        device=device_of(manifest.settings, local.role, local.device),
    )


def _resumes(local: Local) -> bool:
    """Whether a server goes on from what it sealed; ``auto``: if it has sealed anything."""
    if local.resume != "auto":
        return local.resume
    state = local.folder / "state"
    return state.is_dir() and any(state.iterdir())


def _check_party(manifest: Manifest, local: Local, role: Role) -> None:
    """Whether the local file is of this program and of a party of this job."""
    problems = []
    if local.role != role.side:
        problems.append(Problem("role", f"is '{local.role}', but this program is the {role.side}"))
    elif role.program and role.program not in manifest.code:
        words = f"is of a {manifest.method} job, which has no {role.program}"
        problems.append(Problem("manifest", words))
    problems += [
        Problem(key, f"is missing: the {role.program or role.side} needs it")
        for key in role.needs
        if not getattr(local, key)
    ]
    if role.side == "site" and bool(local.pad_accelerator) != bool(manifest.pad_accelerators):
        words = "is missing: the job's masks are multiplied by a second accelerator"
        if local.pad_accelerator:
            words = "is of no use: in this job the enclave multiplies masks itself"
        problems.append(Problem("pad_accelerator", words))
    if local.serve is not None and not method_of(manifest.method).server_trains:
        problems.append(Problem("serve", f"the server of a {manifest.method} job answers nobody"))
    sites = manifest.settings.sites.names
    problems += [
        Problem(key, f"there is no site '{name}'; the job has {', '.join(sites)}")
        for key, name in (("site", local.site), ("serve", local.serve))
        if name is not None and name not in sites
    ]
    problems += _accelerator_problems(manifest, local)
    if problems:
        raise ConfigError(f"local file of the {local.name}", problems)
    device_of(manifest.settings, local.role, local.device)


def _accelerator_problems(manifest: Manifest, local: Local) -> list[Problem]:
    """Whether there is an accelerator exactly where the job has any."""
    wanted, compute = manifest.settings.accelerated, manifest.settings.compute
    if local.role == "accelerator" and not wanted:
        return [Problem("role", f'is "accelerator", which no job with compute = "{compute}" has')]
    if local.role == "site" and wanted and not local.accelerator:
        return [Problem("accelerator", "is missing: the site-enclave needs it")]
    if local.role == "site" and local.accelerator and not wanted:
        return [Problem("accelerator", "is given, and the job has none; leave it out")]
    return []


def check_code(manifest: Manifest, *programs: str) -> None:
    """Hold the code installed here against the code that was signed.

    Args:
        programs: of the manifest; default: all.

    Raises:
        DigestMismatchError: names the programs whose code is another.
    """
    other = [
        program
        for program in programs or sorted(manifest.code)
        if manifest.code[program] != program_digest(program).hex()
    ]
    if other:
        raise DigestMismatchError(
            "the manifest names other code than the sealtune that is installed here: "
            f"{', '.join(other)}",
            hint="use the version that built the manifest, everywhere, or build and sign a new one",
        )
