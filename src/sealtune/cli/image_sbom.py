"""``sealtune image sbom``: what an image is made of, in a form that others' tools read.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """What the bill is written as."""

    CYCLONEDX = "cyclonedx"
    SPDX = "spdx"


def sbom(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", exists=True, file_okay=False, help="A built image."),
    ] = None,
    program: Annotated[
        str,
        typer.Option(
            "--program", metavar="NAME", help="Without DIR: its packages in this environment."
        ),
    ] = "",
    form: Annotated[Form, typer.Option("--format", help="What it is written as.")] = Form.CYCLONEDX,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: standard output.")
    ] = None,
) -> None:
    """Write the bill of materials: packages, versions, hashes, and licences where they are known.

    The same image has the same bill, byte for byte.

    Examples:

        sealtune image sbom images/aggregator -o aggregator.cdx.json

        sealtune image sbom --program aggregator --format spdx
    """
    from sealtune.images import sbom as bills
    from sealtune.images.image import Image
    from sealtune.images.programs import PROGRAMS
    from sealtune.job.storage import write_atomic
    from sealtune.programs.reach import MAINS

    if (folder is None) == (not program):
        raise typer.BadParameter("give either DIR or --program")
    if folder is not None:
        bill = bills.of_image(Image.read(folder).contents)
    else:
        wanted = PROGRAMS.get(program, program)
        if wanted not in MAINS:
            raise typer.BadParameter(f"{program!r} is none of {', '.join(MAINS)}")
        bill = bills.of_program(wanted)
    data = bills.write(bill, form.value)
    if out is None:
        typer.echo(data, nl=False)
        return
    write_atomic(out, data)
    unknown = sum(not part.licence for part in bill.parts)
    typer.echo(f"{out}: {len(bill.parts)} packages, of {unknown} the licence is not known")
