"""``sealtune job``: build, show, sign and verify the manifest that a run starts from.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sealtune.job.manifest import Manifest
    from sealtune.job.spec import Job

job = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Build, show, sign and verify a job's manifest: what everybody agrees on before a run.",
)

_File = Annotated[Path, typer.Argument(metavar="MANIFEST", help="File of `sealtune job build`.")]
_Participants = Annotated[
    list[str] | None,
    typer.Option("--participant", metavar="ORG=KEY.pub", help="Repeat it for each organisation."),
]
_Site = Annotated[
    str | None, typer.Option("--site", metavar="SITE", help="With --job: this site's data only.")
]
_Accept = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Accepted evidence, as JSON [default: simulated enclaves of this code].",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


class Release(StrEnum):
    """Who gets the adapter in the end."""

    PARTICIPANTS = "participants"
    QUORUM = "quorum"
    NEVER = "never"


@job.command("build")
def build(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Manifest to write.")] = (
        Path("job.manifest.json")
    ),
    participant: _Participants = None,
    policy: _Accept = None,
    release: Annotated[
        Release, typer.Option("--release", help="Who gets the adapter in the end.")
    ] = Release.PARTICIPANTS,
    epoch: Annotated[
        int, typer.Option("--epoch", min=1, max=10_000, help="Rounds between attestations.")
    ] = 5,
    days: Annotated[
        int, typer.Option("--days", min=1, max=366, help="How long a run may be started.")
    ] = 30,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
) -> None:
    """Work out everything that a job leaves open and write its manifest, not yet signed.

    Needs model and data of the job on this machine; the manifest holds digests of them and no
    paths. Without --participant, each site answers for itself with SITE.pub in this folder.

    Examples:

        sealtune job build job.toml -o job.manifest.json

        sealtune job build job.toml --participant north=north.pub --participant south=south.pub

        sealtune job build job.toml --participant clinics:east,west=clinics.pub --days 7
    """
    from rich.console import Console

    from sealtune.attest.files import load_policies
    from sealtune.cli.signing import propose, read_participants
    from sealtune.errors import StorageError
    from sealtune.job.load import check_files, load_job
    from sealtune.job.proposal import wrap
    from sealtune.job.storage import write_atomic

    settings = load_job(job_file)
    if out.exists() and not force:
        raise StorageError(
            f"{out} is already there, with whatever signatures it has",
            hint="--force to replace it, or another -o",
        )
    participants = read_participants(settings, participant or [])
    roles = settings.job.rules.attested
    accepted = None if policy is None else load_policies(policy, roles)
    check_files(settings)
    with Console(stderr=True).status("Checking data and model, planning what runs where"):
        from sealtune.plan.resolve import resolve

        manifest = propose(
            resolve(settings),
            participants,
            accepted,
            release=release.value,
            epoch=epoch,
            valid=timedelta(days=days),
        )
    envelope = wrap(manifest)
    write_atomic(out, envelope.encode())
    missing = [member.org for member in manifest.participants]
    _say_state(out, envelope.payload, manifest, missing, policy)


@job.command("sign")
def sign(
    file: _File,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your .key file.")],
    job_file: Annotated[
        Path | None,
        typer.Option(
            "--job", metavar="JOB.toml", help="First compare with the model and data files here."
        ),
    ] = None,
    site: _Site = None,
    policy: _Accept = None,
) -> None:
    """Sign a manifest. Read it first with `sealtune job show`: the signature covers all of it.

    Code digest and accepted evidence must be what you expect: this sealtune, and --policy.

    Examples:

        sealtune job sign job.manifest.json --key north.key

        sealtune job sign job.manifest.json --key north.key --job job.toml --site north
    """
    from sealtune.cli.signing import check_expected
    from sealtune.errors import UnknownKeyError
    from sealtune.job import dsse, proposal
    from sealtune.job.dsse import Envelope
    from sealtune.job.key_files import load_private, spaced
    from sealtune.job.keys import fingerprint, public_hex
    from sealtune.job.load import load_job
    from sealtune.job.manifest import check_terms, check_time, open_manifest
    from sealtune.job.storage import write_atomic

    envelope = Envelope.read(file)
    manifest = open_manifest(envelope)
    checks = check_expected(manifest, policy)
    check_time(manifest)
    check_terms(manifest)
    dsse.verify_present(envelope, manifest.keys)
    private = load_private(key)
    public = private.public_key()
    own = [member for member in manifest.participants if member.key == public_hex(public)]
    if site is not None and own and site not in own[0].sites:
        raise UnknownKeyError(
            f"'{own[0].org}', whose key this is, does not answer for site '{site}'",
            hint=f"compare with your own data: --site {own[0].sites[0]}",
        )
    orgs = [member.org for member in own]
    if not orgs:
        raise UnknownKeyError(
            f"the manifest does not name the key in {key} ({spaced(fingerprint(public))})",
            hint="`sealtune job show` lists the participants' keys",
        )
    if job_file is not None:
        checks += _compare(manifest, load_job(job_file), site)
    for check in checks:
        typer.echo(f"ok  {check}")
    envelope = proposal.sign(envelope, private)
    write_atomic(file, envelope.encode())
    typer.echo(f"signed by    {orgs[0]}, just now")
    signed = dsse.verify_present(envelope, manifest.keys)
    missing = [org for org in manifest.keys if org not in signed]
    _say_state(file, envelope.payload, manifest, missing, policy)


@job.command("verify")
def verify(
    file: _File,
    job_file: Annotated[
        Path | None,
        typer.Option(
            "--job", metavar="JOB.toml", help="Also compare with the model and data files here."
        ),
    ] = None,
    site: _Site = None,
    participant: _Participants = None,
    policy: _Accept = None,
    as_json: _Json = False,
) -> None:
    """Check that everybody signed, that it is valid now, and what of it is on this machine.

    Code digest and accepted evidence must be what you expect: this sealtune, and --policy.

    With --participant, also that these are the keys it names: a signature proves nothing if you
    cannot tell whose key made it.

    Examples:

        sealtune job verify job.manifest.json

        sealtune job verify job.manifest.json --job job.toml --site north

        sealtune job verify job.manifest.json --participant south=south.pub
    """
    from sealtune.cli.signing import check_expected, check_keys
    from sealtune.job.dsse import Envelope
    from sealtune.job.load import load_job
    from sealtune.job.manifest import job_id, verify_manifest
    from sealtune.party.trust import read_policies

    envelope = Envelope.read(file)
    manifest = verify_manifest(envelope)
    accepted = check_expected(manifest, policy)
    check_keys(manifest, participant or [])
    orgs = [member.org for member in manifest.participants]
    checks = [
        "canonical bytes, known keys only, no contradictions",
        f"signed by {', '.join(orgs)}",
        f"valid until {manifest.expires}",
        *accepted,
    ]
    if participant:
        checks.append("the keys are the ones you gave")
    if job_file is not None:
        checks += _compare(manifest, load_job(job_file), site)
    if as_json:
        import json

        document = {"job_id": job_id(envelope.payload), "signed_by": orgs, "checks": checks}
        typer.echo(json.dumps(document, indent=2))
        return
    for check in checks:
        typer.echo(f"ok  {check}")
    policies = read_policies(manifest)
    weak = [role for role, policy in policies.items() if not policy.confidential]
    if weak or not policies:
        why = f"evidence of the {', '.join(weak)} protects nothing" if weak else "there is no TEE"
        typer.secho(f"NOT CONFIDENTIAL: {why}", fg="red", bold=True)
    typer.echo(f"job id  {job_id(envelope.payload)}")


@job.command("show")
def show(file: _File, as_json: _Json = False) -> None:
    """Show what a manifest says, for whoever is about to sign it.

    Who takes part, which model and data, what runs where, what each party will see, which evidence
    is accepted, who gets the result, and until when a run may be started.

    Examples:

        sealtune job show job.manifest.json

        sealtune job show job.manifest.json --json | jq .manifest.participants
    """
    from rich.console import Console

    from sealtune.cli.manifest_view import show_manifest
    from sealtune.errors import ManifestError
    from sealtune.job import dsse
    from sealtune.job.dsse import Envelope
    from sealtune.job.manifest import job_id, open_manifest
    from sealtune.party.trust import read_policies

    envelope = Envelope.read(file)
    manifest = open_manifest(envelope)
    policies = read_policies(manifest)
    signed: tuple[str, ...] = ()
    fault: ManifestError | None = None
    try:
        signed = dsse.verify_present(envelope, manifest.keys)
    except ManifestError as error:
        fault = error
    identity = job_id(envelope.payload)
    if as_json:
        import json

        document = {
            "job_id": identity,
            "signed_by": list(signed),
            "manifest": manifest.model_dump(mode="json"),
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        show_manifest(manifest, policies, identity, signed, Console(highlight=False))
    if fault is not None:
        raise fault


def _compare(manifest: Manifest, settings: Job, site: str | None) -> list[str]:
    from rich.console import Console

    with Console(stderr=True).status("Reading model and data, planning what runs where"):
        from sealtune.party.found import check_found, check_settings
        from sealtune.plan.resolve import work_out

        check_settings(manifest, settings.settings)
        compared = check_found(manifest, work_out(settings, manifest, site))
        return [f"{what}: as the manifest says" for what in ("settings", *compared)]


def _say_state(
    file: Path, payload: bytes, manifest: Manifest, missing: list[str], policy: Path | None
) -> None:
    """What the manifest is called, and what is left to do; ``policy``: as it was given here."""
    import shlex

    from sealtune.cli.signing import key_options
    from sealtune.job.manifest import job_id

    name = shlex.quote(str(file))
    typer.echo(f"manifest     {file}")
    typer.echo(f"job id       {job_id(payload)}")
    if missing:
        typer.echo(f"not yet by   {', '.join(missing)}")
        sign = f"sealtune job sign {name} --key {missing[0]}.key"
        sign += "" if policy is None else f" --policy {shlex.quote(str(policy))}"
        typer.echo(f"→ sealtune job show {name}; {sign}")
    else:
        typer.echo("signed by all")
        typer.echo(f"→ sealtune run JOB.toml --manifest {name}{key_options(manifest)}")
