"""One command a party: ``sealtune coordinator``, ``server``, ``site``, ``accelerator`` and
``pad-accelerator``.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealtune.cli.describe import describe_coordinator, describe_server, describe_site
from sealtune.cli.describe_pads import describe_pad_accelerator
from sealtune.errors import ConfigError, Problem
from sealtune.job.private import private_files

if TYPE_CHECKING:
    from sealtune.job.local import Local

_LocalFile = Annotated[
    Path | None, typer.Option("--local", metavar="FILE", help="This party's own file.")
]
_Check = Annotated[
    bool,
    typer.Option("--check", help="Only see what would go wrong, all of it; start nothing."),
]
_Json = Annotated[bool, typer.Option("--json", help="With --check: the table as JSON.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Nothing for people on stderr.")]
_Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="PART",
        help="enclave or network: that half alone, under an account of its own.",
    ),
]

coordinator = typer.Typer(invoke_without_command=True)
server = typer.Typer(invoke_without_command=True)
site = typer.Typer(invoke_without_command=True)
accelerator = typer.Typer(invoke_without_command=True)
pad_accelerator = typer.Typer(invoke_without_command=True)

coordinator.command("describe")(describe_coordinator)
server.command("describe")(describe_server)
site.command("describe")(describe_site)
pad_accelerator.command("describe")(describe_pad_accelerator)


@coordinator.callback()
def run_coordinator(
    ctx: typer.Context,
    local: _LocalFile = None,
    check: _Check = False,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Run a job's coordinator: the one host that others connect to, which sees sealed bytes only.

    coordinator.toml, beside the signed manifest:

        manifest = "job.manifest.json"
        role = "coordinator"
        folder = "coordinator"             # for logs
        listen = "tcp:0.0.0.0:9092"        # sites connect to it
        listen_server = "tcp:0.0.0.0:9093" # the server does
        tls_key = "coordinator.tls.key"    # of the manifest's certificate

    Events are JSON lines on stdout, the first one when it stands: {"event":"ready",...}. It ends
    when the job is done; SIGTERM stops it, and the same command goes on.

    Examples:

        sealtune coordinator --local coordinator.toml --check

        sealtune coordinator --local coordinator.toml

    What comes next: `sealtune server` on its host, then `sealtune site` at each site.
    """
    _party(ctx, local, "coordinator", check, as_json, quiet)


@server.callback()
def run_server(
    ctx: typer.Context,
    local: _LocalFile = None,
    check: _Check = False,
    as_json: _Json = False,
    quiet: _Quiet = False,
    only: _Only = None,
) -> None:
    """Run a job's server: its enclave, and the link that connects it to the coordinator.

    server.toml, beside the signed manifest:

        manifest = "job.manifest.json"
        role = "server"
        folder = "server"                  # for sealed state, results and logs
        listen = "server.sock"             # the enclave's, for the link
        tls_key = "server.tls.key"         # of the manifest's server_certificate

        [model]                            # of a split job
        path = "models/small"

    It listens to nobody outside. Events are JSON lines on stdout, the first one when it stands.
    When it is stopped or killed, the same command goes on from the sealed checkpoint.

    Examples:

        sealtune server --local server.toml --check

        sealtune server --local server.toml

    What comes next: `sealtune site` at each site; in the end `sealtune report FOLDER`.
    """
    _party(ctx, local, "server", check, as_json, quiet, only)


@site.callback()
def run_site(
    ctx: typer.Context,
    local: _LocalFile = None,
    check: _Check = False,
    as_json: _Json = False,
    quiet: _Quiet = False,
    only: _Only = None,
) -> None:
    """Run a site of a job: the program that holds its data, and the node that connects it.

    north.toml, beside the signed manifest:

        manifest = "job.manifest.json"
        role = "site"
        site = "north"
        folder = "north"                   # for the adapter, sealed state and logs
        listen = "north.sock"              # the program's, for the node
        node_key = "north.node.key"        # the coordinator knows the node by it
        accelerator = "tcp:10.0.0.7:9100"  # a federated job's; or unix:gpu.sock
        pad_accelerator = "tcp:192.0.2.8:9101" # where pads = "second-accelerator"
        key = "north.key"                  # where sites sign who they are

        [model]
        path = "models/small"

        [data]
        train = "train.jsonl"
        test = "test.jsonl"

    Connections only go out: to the coordinator and to the accelerator. Events are JSON lines on
    stdout, the first one when it stands. It ends when the result has been released.

    Examples:

        sealtune site --local north.toml --check

        sealtune site --local north.toml

    What comes next: the adapter is in FOLDER/sites/NAME/adapter; `sealtune evaluate`, `predict`.
    """
    _party(ctx, local, "site", check, as_json, quiet, only)


@accelerator.callback()
def run_accelerator(
    ctx: typer.Context,
    local: _LocalFile = None,
    check: _Check = False,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Run an accelerator for the sites of a federated job; it sees masked numbers only.

    gpu.toml, beside the signed manifest:

        manifest = "job.manifest.json"
        role = "accelerator"
        folder = "gpu"                     # for logs
        listen = "tcp:0.0.0.0:9100"        # or unix:gpu.sock

        [model]
        path = "models/small"

    It serves until it is stopped. Events are JSON lines on stdout, the first one when it stands.

    Examples:

        sealtune accelerator --local gpu.toml --check

        sealtune accelerator --local gpu.toml

    What comes next: `accelerator = "tcp:HOST:9100"` in the local files of its sites.
    """
    _party(ctx, local, "accelerator", check, as_json, quiet)


@pad_accelerator.callback()
def run_pad_accelerator(
    ctx: typer.Context,
    local: _LocalFile = None,
    check: _Check = False,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Run a pad accelerator for sites of a job with `pads = "second-accelerator"`.

    It knows the masks and nothing of what they hide. Whoever runs it must not run the sites'
    accelerator, nor see what their enclaves send there: together that is everything.

    pads.toml, beside the signed manifest:

        manifest = "job.manifest.json"
        role = "pad-accelerator"
        folder = "pads"                    # for logs
        listen = "tcp:0.0.0.0:9101"
        pad_key = "pads.hpke.key"          # that its card was made with

        [model]
        path = "models/small"

    It serves until it is stopped. Events are JSON lines on stdout, the first one when it stands.

    Examples:

        sealtune pad-accelerator --local pads.toml --check

        sealtune pad-accelerator --local pads.toml

    What comes next: `pad_accelerator = "tcp:HOST:9101"` in the local files of its sites.
    """
    _party(ctx, local, "pad-accelerator", check, as_json, quiet)


@private_files()
def _party(
    ctx: typer.Context,
    file: Path | None,
    role: str,
    check: bool,
    as_json: bool,
    quiet: bool,
    only: str | None = None,
) -> None:
    if ctx.invoked_subcommand is not None:
        return
    if file is None:
        raise ConfigError(
            f"sealtune {role}",
            [Problem("--local", "is missing: the party's own file")],
            hint=f"`sealtune {role} -h` has an example of one",
        )
    local = _read(file, role)
    if check:
        from sealtune.cli.preflight_view import show_check

        show_check(local, as_json=as_json)
        return
    _run(local, quiet, only)


def _read(file: Path, role: str) -> Local:
    """The party's own file, if it is of this command."""
    from sealtune.job.local_file import load_local

    local = load_local(file)
    if local.role != role:
        words = f"is '{local.role}'; this command is `sealtune {role}`"
        raise ConfigError(str(file), [Problem("role", words)])
    return local


def _run(local: Local, quiet: bool, only: str | None) -> None:
    """Run the party; a stop by SIGTERM is what it should do."""
    from rich.console import Console

    from sealtune.launch import Interrupted
    from sealtune.launch.party import Part, run_party

    if only not in (None, *Part):
        raise ConfigError("--only", [Problem(str(only), f"is none of {', '.join(Part)}")])
    console = Console(stderr=True, highlight=False, quiet=quiet)
    try:
        run_party(local, out=sys.stdout, console=console, part=Part(only) if only else None)
    except Interrupted as stop:
        console.print("stopped; the same command goes on from here")
        clean = stop.signum == signal.SIGTERM
        raise typer.Exit(0 if clean else stop.exit_code) from stop
