"""The ``sealtune`` command. To add a command, write its file and register its function below.

Commands import what is heavy (torch, transformers, pyarrow) inside their functions, so that
``sealtune --help`` answers at once.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sealtune import __version__
from sealtune.cli.advise import advise
from sealtune.cli.attest import attest
from sealtune.cli.audit import audit
from sealtune.cli.clean import clean
from sealtune.cli.demo import demo_data, demo_model
from sealtune.cli.demo_hosts import demo_hosts
from sealtune.cli.deploy import deploy
from sealtune.cli.doctor import doctor
from sealtune.cli.errors import Commands
from sealtune.cli.evaluate import evaluate
from sealtune.cli.image import image
from sealtune.cli.init import init
from sealtune.cli.job import job
from sealtune.cli.keys import keys
from sealtune.cli.merge import merge
from sealtune.cli.parties import accelerator, coordinator, pad_accelerator, server, site
from sealtune.cli.plan import plan
from sealtune.cli.predict import predict
from sealtune.cli.report import report
from sealtune.cli.run import run
from sealtune.cli.tcb import tcb
from sealtune.cli.validate import validate

# before torch is loaded: threads that spin while they wait take the cores from other processes
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # its tracebacks print local variables, and those hold texts
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sealtune {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Fine-tune a language model across sites that must not see each other's data.

    Start here: `sealtune demo-data`, `sealtune demo-model`, `sealtune init`, `sealtune validate`.
    """


app.command("init")(init)
app.command("validate")(validate)
app.command("doctor")(doctor)
app.command("advise")(advise)
app.command("plan")(plan)
app.command("run")(run)
app.command("evaluate")(evaluate)
app.command("predict")(predict)
app.command("merge")(merge)
app.command("report")(report)
app.command("audit")(audit)
app.command("clean")(clean)
app.command("tcb")(tcb)
app.add_typer(keys, name="keys")
app.add_typer(job, name="job")
app.add_typer(attest, name="attest")
app.add_typer(image, name="image")
app.add_typer(coordinator, name="coordinator")
app.add_typer(server, name="server")
app.add_typer(site, name="site")
app.add_typer(accelerator, name="accelerator")
app.add_typer(pad_accelerator, name="pad-accelerator")
app.add_typer(deploy, name="deploy")
app.command("demo-data")(demo_data)
app.command("demo-model")(demo_model)
app.command("demo-hosts")(demo_hosts)


def main() -> None:
    """Entry point of the ``sealtune`` script."""
    app(prog_name="sealtune")


if __name__ == "__main__":
    main()
