"""``sealtune party``: one party's program of a job, from its own local file.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def party(
    file: Annotated[Path, typer.Argument(metavar="LOCAL.toml", help="The party's own file.")],
    check: Annotated[
        bool, typer.Option("--check", help="Only see whether it would be admitted; start nothing.")
    ] = False,
) -> None:
    """Start one party's program: a site, the server or an accelerator, wherever it runs.

    What all share stands in the signed manifest; LOCAL.toml holds what this party knows alone:

        manifest = "job.manifest.json"
        role = "site"                     # or server, accelerator
        site = "north"
        folder = "north"                  # for results and logs
        listen = "north.sock"
        accelerator = "unix:gpu.sock"     # a federated job's sites; or tcp:host:port
        key = "north.key"                 # sites without a TEE

        [model]
        path = "models/small"

        [data]
        train = "train.jsonl"
        test = "test.jsonl"

    Examples:

        sealtune party north.toml --check

        sealtune party north.toml
    """
    from sealtune.job.local_file import load_local
    from sealtune.launch.environment import variables
    from sealtune.launch.parties import admit_party, command

    local = load_local(file)
    if check:
        admitted = admit_party(local)
        typer.echo(f"{local.name} is admitted to job {admitted.job_id}")
        return
    started = command(local)
    os.execve(started[0], started, variables({"OMP_WAIT_POLICY": "PASSIVE"}))
