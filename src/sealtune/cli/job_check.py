"""``sealtune job verify`` and ``show``: what a manifest says, and whether it holds.

Trust domain: a participant's own machine; manifests come from outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sealtune.cli.job_options import (
    Accept,
    AsJson,
    CardsOption,
    JobFileOption,
    LocalOption,
    ManifestFile,
    Participants,
    Site,
)


def verify(
    file: ManifestFile,
    job_file: JobFileOption = None,
    site: Site = None,
    local: LocalOption = None,
    card: CardsOption = None,
    participant: Participants = None,
    policy: Accept = None,
    as_json: AsJson = False,
) -> None:
    """Check that everybody signed, that it is valid now, and what of it is on this machine.

    Code digest and accepted evidence must be what you expect: this sealtune, and --policy.

    With --local, also that your own data, model, plan, signing key and node key or certificate are
    in it, and that no earlier job of your site is in its way; with --card, what a card says that
    you got from its own party.

    With --participant, also that these are the keys it names: a signature proves nothing if you
    cannot tell whose key made it.

    Examples:

        sealtune job verify job.manifest.json

        sealtune job verify job.manifest.json --local north.toml --card north.card.json

        sealtune job verify job.manifest.json --job job.toml --site north

        sealtune job verify job.manifest.json --participant south=south.pub
    """
    from sealtune.cli.job_compare import Compared, compare, say
    from sealtune.cli.signing import check_expected
    from sealtune.job.dsse import Envelope
    from sealtune.job.manifest import job_id, verify_manifest
    from sealtune.party.trust import read_policies

    envelope = Envelope.read(file)
    manifest = verify_manifest(envelope)
    accepted = check_expected(manifest, policy)
    orgs = [member.org for member in manifest.participants]
    checks = [
        "canonical bytes, known keys only, no contradictions",
        f"signed by {', '.join(orgs)}",
        f"valid until {manifest.expires}",
        *accepted,
    ]
    compared = compare(
        manifest,
        job_file=job_file,
        site=site,
        local=local,
        cards=card or [],
        participants=participant or [],
    )
    checks += compared.checks
    if as_json:
        import json

        document = {
            "job_id": job_id(envelope.payload),
            "signed_by": orgs,
            "checks": checks,
            "not_compared": compared.left,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    say(Compared(checks, compared.left))
    policies = read_policies(manifest)
    weak = [role for role, policy in policies.items() if not policy.confidential]
    if weak or not policies:
        why = f"evidence of the {', '.join(weak)} protects nothing" if weak else "there is no TEE"
        typer.secho(f"NOT CONFIDENTIAL: {why}", fg="red", bold=True)
    typer.echo(f"job id  {job_id(envelope.payload)}")


def show(
    file: ManifestFile,
    as_json: AsJson = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write it as a page that needs nothing else."),
    ] = None,
) -> None:
    """Show what a manifest says, for whoever is about to sign it.

    Who takes part, which model and data, what runs where, what each party will see, which evidence
    is accepted, who gets the result, and until when a run may be started.

    Examples:

        sealtune job show job.manifest.json

        sealtune job show job.manifest.json --html job.html

        sealtune job show job.manifest.json --json | jq .manifest.participants
    """
    from rich.console import Console

    from sealtune.cli.manifest_facts import facts_of
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
        said = fault.message if fault else ""
        shown = facts_of(manifest, policies, identity, signed, said)
        if page is None:
            show_manifest(shown, Console(highlight=False))
        else:
            from sealtune.job.storage import write_atomic
            from sealtune.report.manifest_page import render

            write_atomic(page, render(shown).encode("utf-8", errors="replace"))
            typer.echo(f"page         {page}")
    if fault is not None:
        raise fault
