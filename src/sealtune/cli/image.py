"""``sealtune image``: machine images that hold one program, to be rebuilt, measured and booted.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sealtune.cli.image_gramine import gramine
from sealtune.cli.image_measure import measure
from sealtune.cli.image_sbom import sbom
from sealtune.job.private import private_files

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


class Acceleration(StrEnum):
    """What runs the machine's processor."""

    KVM = "kvm"
    TCG = "tcg"


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
    library: Annotated[
        Path | None,
        typer.Option(
            "--library",
            metavar="FILE",
            help="The C library for it [default: the one of this installation, if there is one].",
        ),
    ] = None,
) -> None:
    """Build an image: Debian's kernel, and one program with its packages in an initial file system.

    Packages come from apt and pip, each by the hash in the lock. Whoever builds the same program
    of the same version from the same lock, with the same C library where it uses one, gets the same
    digest.

    Example: `sealtune image build --program aggregator -o images/aggregator`
    """
    from sealtune.images.build import build as make
    from sealtune.images.lock import SHIPPED, read_lock
    from sealtune.images.parts import LIBRARY
    from sealtune.images.programs import PROGRAMS

    listed = PROGRAMS[program.value]
    contents = make(
        read_lock(lock or SHIPPED), listed, out, cache=packages, library=library
    ).contents
    for one in contents.absent:
        typer.echo(f"left out: {one}, of which the lock has no package", err=True)
    typer.echo(f"image    {out}  (Linux {contents.kernel}, {len(contents.files)} files)")
    typer.echo(f"program  {contents.program}  {contents.code}")
    for sha256 in (file.sha256 for file in contents.files if file.path == LIBRARY):
        typer.echo(f"library  {sha256}")
    typer.echo(f"digest   {contents.digest}")


@image.command("run")
@private_files()
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a built image.")],
    local: Annotated[
        Path, typer.Option("--local", metavar="FILE", help="The party's own file (local.toml).")
    ],
    memory: Annotated[
        int | None,
        typer.Option(
            "--memory", metavar="MIB", min=256, help="[default: by program, image and model]"
        ),
    ] = None,
    processors: Annotated[
        int | None, typer.Option("--processors", min=1, help="[default: up to 2]")
    ] = None,
    accel: Annotated[
        Acceleration | None,
        typer.Option("--accel", help="[default: kvm where a short boot with it works]"),
    ] = None,
    console: Annotated[
        Path,
        typer.Option("--console", metavar="FILE", help="Gets what kernel and program print."),
    ] = Path("/dev/stderr"),
    qemu: Annotated[
        str,
        typer.Option(
            "--qemu", metavar="OPTIONS", help="More options for QEMU, such as a TEE's; one string."
        ),
    ] = "",
) -> None:
    """Boot an image in QEMU for one party, in place of its process.

    Events come to stdout, as from a process; so does the exit code. SIGTERM asks the program to
    end. The host's part of the machine is not believed: the program verifies what it is handed.

    Example: `sealtune image run images/aggregator --local server.toml`
    """
    from sealtune.errors import ProcessDiedError, SealtuneError
    from sealtune.images.image import Image
    from sealtune.images.run import boot
    from sealtune.job.events import Error
    from sealtune.job.local_file import load_local
    from sealtune.party.events import EventLines

    try:
        code = boot(
            Image.read(folder),
            load_local(local),
            memory=memory,
            processors=processors,
            accel=accel.value if accel else None,
            console=console,
            more=shlex.split(qemu),
        )
    except ProcessDiedError:
        raise  # it may live when it is started again; what is said in an event would not
    except SealtuneError as error:
        EventLines(1)(Error.of(error))
        raise
    raise typer.Exit(code)


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


image.command("measure")(measure)
image.command("gramine")(gramine)
image.command("sbom")(sbom)
