"""``sealtune keys``: the keys that participants sign job manifests with.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

keys = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make and look at the keys that job manifests are signed with.",
)


@keys.command("new")
def new(
    org: Annotated[str, typer.Argument(metavar="ORG", help="Name of your organisation.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the two files.")
    ] = Path(),
) -> None:
    """Make a signing key: ORG.key (yours alone, mode 0600) and ORG.pub (for everybody).

    Example: `sealtune keys new north --out ~/keys`
    """
    from sealtune.job.key_files import load_private, new_key, spaced
    from sealtune.job.keys import fingerprint

    private, public = new_key(org, out)
    typer.echo(f"private key  {private}  (keep it; it is not encrypted)")
    typer.echo(f"public key   {public}  (give it to whoever builds the manifest)")
    typer.echo(f"fingerprint  {spaced(fingerprint(load_private(private).public_key()))}")


@keys.command("show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pub or .key file.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the key.")] = False,
) -> None:
    """Print a key's fingerprint. Compare it with its owner over another way than you got the file.

    Example: `sealtune keys show south.pub`
    """
    import json

    from sealtune.job.key_files import load_public, spaced
    from sealtune.job.keys import fingerprint, public_hex

    key = load_public(file)
    if as_json:
        typer.echo(json.dumps({"fingerprint": fingerprint(key), "key": public_hex(key)}))
    else:
        typer.echo(spaced(fingerprint(key)))
