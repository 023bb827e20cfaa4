"""``sealtune image``: machine images that hold one program, to be rebuilt, measured and booted.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

image = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Build and boot machine images that hold one program and nothing else.",
)


class Part(StrEnum):
    """A program that an image can hold."""

    AGGREGATOR = "aggregator"
    SITE = "site"
    SPLIT_SERVER = "split-server"


Cache = Annotated[
    Path | None,
    typer.Option(
        "--packages",
        metavar="DIR",
        help="Folder of packages, kept by hash [default: in the user's cache].",
    ),
]


@image.command("build")
def build(
    program: Annotated[Part, typer.Option("--program", help="The program that it holds.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the image.")],
    lock: Annotated[
        Path | None,
        typer.Option(
            "--lock", metavar="FILE", help="Packages by hash [default: those of this version]."
        ),
    ] = None,
    packages: Cache = None,
) -> None:
    """Build an image: Debian's kernel, and one program with its packages in an initial file system.

    Packages come from apt and pip, each by the hash in the lock. Whoever builds the same program
    of the same version from the same lock gets the same digest.

    Example: `sealtune image build --program aggregator -o images/aggregator`
    """
    from sealtune.images.build import build as make
    from sealtune.images.lock import SHIPPED, read_lock
    from sealtune.images.programs import PROGRAMS

    built = make(read_lock(lock or SHIPPED), PROGRAMS[program.value], out, cache=packages)
    contents = built.contents
    for one in contents.absent:
        typer.echo(f"left out: {one}, of which the lock has no package", err=True)
    typer.echo(f"image    {out}  (Linux {contents.kernel}, {len(contents.files)} files)")
    typer.echo(f"program  {contents.program}  {contents.code}")
    typer.echo(f"digest   {contents.digest}")


@image.command("lock")
def lock(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The lock file.")],
    kernel: Annotated[
        str | None,
        typer.Option("--kernel", metavar="PACKAGE", help="Another of Debian's kernels."),
    ] = None,
    packages: Cache = None,
) -> None:
    """Write a new lock: what apt offers today, and wheels of the versions installed here.

    Example: `sealtune image lock -o image.lock.json`
    """
    from sealtune.images.choose import KERNEL, choose

    chosen = choose(kernel or KERNEL, packages)
    chosen.write(out)
    typer.echo(f"{out}: {len(chosen.packages)} packages, kernel {chosen.kernel}")
