"""``sealtune image gramine``: a manifest for SGX, made of an image, and our check of one.

Trust domain: operator (untrusted), and whoever compares.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sealtune.images.image import Contents


def gramine(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]", exists=True, file_okay=False, help="A built image of the program."
        ),
    ] = None,
    program: Annotated[
        str,
        typer.Option(
            "--program", metavar="NAME", help="Without DIR: aggregator, site or split-server."
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            "--check",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Look at this manifest instead; with DIR also at its hashes.",
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, max=512, help="Threads that compute.")
    ] = 4,
    size: Annotated[
        int | None, typer.Option("--size", metavar="GIB", min=1, max=1024, help="Of the enclave.")
    ] = None,
) -> None:
    """Write a Gramine manifest template for SGX, or refuse one that lets the host in.

    Each file of the image is a trusted file with its hash; arguments and environment are fixed.
    Unpack the image's files beside it (`mkdir root && cpio -idm -D root < DIR/initrd`), then
    `gramine-manifest` and `gramine-sgx-sign`. Other organisations `--check` what was made of it
    against their own build of the image.

    Examples:

        sealtune image gramine --program aggregator -o aggregator.manifest.template

        sealtune image gramine images/site --check site.manifest.sgx
    """
    from sealtune.images import gramine_lint
    from sealtune.images.gramine import manifest
    from sealtune.job.storage import write_atomic

    if (out is None) == (check is None):
        raise typer.BadParameter("give either -o or --check")
    if check is not None:
        image = _contents(folder, program) if folder or program else None
        count = gramine_lint.check_file(check, image)
        typer.echo(f"{check}: {count} trusted files, nothing lets the host in")
        if image is None:
            typer.echo("hashes were compared with nothing: give DIR, your own image", err=True)
        return
    assert out is not None
    contents = _contents(folder, program)
    text = manifest(contents, threads=threads, gib=size).encode()
    gramine_lint.check(text, out, contents)  # what is given out holds
    write_atomic(out, text)
    typer.echo(f"{out}: {contents.program}, image {contents.digest}")


def _contents(folder: Path | None, program: str) -> Contents:
    """Of the image in ``folder``, or of one that is built for this and thrown away."""
    from sealtune.images.build import build
    from sealtune.images.image import Image
    from sealtune.images.lock import read_lock
    from sealtune.images.programs import PROGRAMS

    # a list's own name is as good
    wanted = PROGRAMS.get(program.removesuffix("-enclave"), "")
    if program and not wanted:
        raise typer.BadParameter(f"{program!r} is none of {', '.join(PROGRAMS)}")
    if folder is not None:
        contents = Image.read(folder).contents
        if wanted and contents.program != wanted:
            raise typer.BadParameter(f"{folder} is an image of {contents.program}, not {wanted}")
        return contents
    if not wanted:
        raise typer.BadParameter("give DIR or --program")
    with tempfile.TemporaryDirectory() as temporary:
        return build(read_lock(), wanted, Path(temporary)).contents
