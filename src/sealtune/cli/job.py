"""``sealtune job``: build, show, sign, merge and verify the manifest that a run starts from.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

import typer

from sealtune.cli.job_build import build
from sealtune.cli.job_check import show, verify
from sealtune.cli.job_sign import merge, sign

job = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Build, show, sign and verify a job's manifest: what everybody agrees on before a run.",
)

job.command("build")(build)
job.command("show")(show)
job.command("sign")(sign)
job.command("merge")(merge)
job.command("verify")(verify)
