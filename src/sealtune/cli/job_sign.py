"""``sealtune job sign`` and ``merge``: put signatures on a manifest.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sealtune.cli.job_options import (
    Accept,
    CardsOption,
    JobFileOption,
    LocalOption,
    ManifestFile,
    Participants,
    Site,
    say_state,
)


def sign(
    file: ManifestFile,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Your .key file [default: that of --local]."),
    ] = None,
    job_file: JobFileOption = None,
    site: Site = None,
    local: LocalOption = None,
    card: CardsOption = None,
    participant: Participants = None,
    policy: Accept = None,
) -> None:
    """Sign a manifest. Read it first with `sealtune job show`: the signature covers all of it.

    Code digest and accepted evidence must be what you expect: this sealtune, and --policy. With
    --local, so must your data, model, plan and keys be, and your card if it lies beside that file;
    what else there is to compare is told.

    Examples:

        sealtune job sign job.manifest.json --local north.toml

        sealtune job sign job.manifest.json --key north.key

        sealtune job sign job.manifest.json --key north.key --job job.toml --site north
    """
    from sealtune.cli.job_compare import Compared, compare, say
    from sealtune.cli.signing import check_expected
    from sealtune.errors import ConfigError, Problem, UnknownKeyError
    from sealtune.job import dsse, proposal
    from sealtune.job.dsse import Envelope
    from sealtune.job.key_files import load_private, spaced
    from sealtune.job.keys import fingerprint, public_hex
    from sealtune.job.local_file import load_local
    from sealtune.job.manifest import check_terms, check_time, open_manifest
    from sealtune.job.storage import write_atomic

    envelope = Envelope.read(file)
    manifest = open_manifest(envelope)
    checks = check_expected(manifest, policy)
    check_time(manifest)
    check_terms(manifest)
    dsse.verify_present(envelope, manifest.keys)
    party = None if local is None else load_local(local)
    key = key or (party.key if party else None)
    if key is None:
        words = "which key? name it here, or the site's local file with --local"
        raise ConfigError("job sign", [Problem("--key", words)])
    private = load_private(key)
    public = private.public_key()
    own = [member for member in manifest.participants if member.key == public_hex(public)]
    claimed = site or (party.site if party else None)
    if claimed is not None and own and claimed not in own[0].sites:
        raise UnknownKeyError(
            f"'{own[0].org}', whose key this is, does not answer for site '{claimed}'",
            hint=f"compare with your own data and sign with your own key: {own[0].sites[0]}'s",
        )
    if not own:
        raise UnknownKeyError(
            f"the manifest does not name the key in {key} ({spaced(fingerprint(public))})",
            hint="`sealtune job show` lists the participants' keys",
        )
    compared = compare(
        manifest,
        job_file=job_file,
        site=site,
        local=local,
        cards=card or [],
        participants=participant or [],
    )
    say(Compared([*checks, *compared.checks], compared.left))
    envelope = proposal.sign(envelope, private)
    write_atomic(file, envelope.encode())
    typer.echo(f"signed by    {own[0].org}, just now")
    signed = dsse.verify_present(envelope, manifest.keys)
    missing = [org for org in manifest.keys if org not in signed]
    say_state(file, envelope.payload, manifest, missing, policy)


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="COPIES", help="Signed copies of one manifest.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="Manifest to write.")],
) -> None:
    """Join the signatures of several copies of one manifest in one file.

    So organisations can sign at the same time. FILE may be one of the copies; if a file is in its
    place that is no copy of this manifest, nothing is written.

    Example: `sealtune job merge north.json south.json west.json -o job.manifest.json`
    """
    from sealtune.job import dsse
    from sealtune.job.dsse import Envelope
    from sealtune.job.manifest import open_manifest
    from sealtune.job.proposal import join
    from sealtune.job.storage import write_atomic

    copies = {str(file): Envelope.read(file) for file in files}
    if out.exists():
        copies[str(out)] = Envelope.read(out)
    envelope = join(copies)
    write_atomic(out, envelope.encode())
    manifest = open_manifest(envelope)
    signed = dsse.verify_present(envelope, manifest.keys)
    missing = [org for org in manifest.keys if org not in signed]
    typer.echo(f"signed by    {', '.join(signed) or 'nobody'}")
    say_state(out, envelope.payload, manifest, missing, None)
