"""What the commands of ``sealtune job`` share: their options, and what they say at the end.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sealtune.job.manifest import Manifest

ManifestFile = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="File of `sealtune job build`.")
]
Participants = Annotated[
    list[str] | None,
    typer.Option("--participant", metavar="ORG=KEY.pub", help="Repeat it for each organisation."),
]
JobFileOption = Annotated[
    Path | None,
    typer.Option(
        "--job", metavar="JOB.toml", help="Also compare with the model and data files here."
    ),
]
LocalOption = Annotated[
    Path | None,
    typer.Option(
        "--local",
        metavar="FILE",
        help="Also compare with the data, model and keys of this local file.",
    ),
]
CardsOption = Annotated[
    list[Path] | None,
    typer.Option("--card", metavar="FILE", help="Also compare with this card; repeat it."),
]
Site = Annotated[
    str | None, typer.Option("--site", metavar="SITE", help="With --job: this site's data only.")
]
Accept = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="Accepted evidence, as JSON [default: simulated enclaves of this code].",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def say_state(
    file: Path, payload: bytes, manifest: Manifest, missing: list[str], policy: Path | None
) -> None:
    """What the manifest is called, and what is left to do; ``policy``: as it was given here."""
    from sealtune.cli.signing import key_options
    from sealtune.job.manifest import job_id

    name = shlex.quote(str(file))
    typer.echo(f"manifest     {file}")
    typer.echo(f"job id       {job_id(payload)}")
    hosts = manifest.network is not None
    if missing:
        typer.echo(f"not yet by   {', '.join(missing)}")
        own = "--local FILE" if hosts else f"--key {missing[0]}.key"
        sign = f"sealtune job sign {name} {own}"
        sign += "" if policy is None else f" --policy {shlex.quote(str(policy))}"
        who = "each organisation: " if hosts else ""
        typer.echo(f"→ {who}sealtune job show {name}; {sign}")
        if hosts:
            typer.echo(f"→ signed copies become one: sealtune job merge COPIES -o {name}")
        return
    typer.echo("signed by all")
    if hosts:
        typer.echo(f"→ each party: sealtune job verify {name} --local FILE")
        typer.echo("→ and then: sealtune coordinator --local FILE (or server, site, accelerator)")
    else:
        typer.echo(f"→ sealtune run JOB.toml --manifest {name}{key_options(manifest)}")
