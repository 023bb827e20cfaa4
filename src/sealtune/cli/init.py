"""``sealtune init``: write a job file to start from.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sealtune.errors import StorageError


class Method(StrEnum):
    """How the model is tuned."""

    FEDERATED = "federated-lora"
    SPLIT = "split"


def init(
    path: Annotated[Path, typer.Argument(help="Job file to write.")] = Path("job.toml"),
    method: Annotated[
        Method,
        typer.Option(
            "--method",
            help="`sealtune advise` says which one fits; `split` needs no TEE at the sites.",
        ),
    ] = Method.FEDERATED,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is already there.")
    ] = False,
) -> None:
    """Write a commented job file.

    Examples:

        sealtune init

        sealtune init hospitals.toml --method split
    """
    from sealtune.job.reference import template
    from sealtune.job.storage import write_atomic

    if path.exists() and not (force and path.is_file()):
        raise StorageError(
            f"{path} is already there",
            hint="choose another name" if path.is_dir() else "choose another name, or use --force",
        )
    write_atomic(path, template(method).replace("FILE", shlex.quote(str(path))).encode())
    typer.echo(f"wrote {path}")
    typer.echo(f"next: edit it, then `sealtune validate {shlex.quote(str(path))}`")
