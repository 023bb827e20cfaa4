"""``sealtune deploy``: a party's programs as services of a host.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sealtune.deploy import Service
    from sealtune.job.local import Local

_KEPT = "sealtune/simulated-tee.key"  # in a folder of data
_KEY = f"~/.local/share/{_KEPT}"
_ANYWHERE = ("0.0.0.0", "::")

deploy = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make services of a job's parties: systemd units, a compose file.",
)


@deploy.callback()
def _group() -> None:
    """Keeps ``render`` a command of its own."""


@deploy.command("render")
def render(
    local: Annotated[
        list[Path], typer.Option("--local", metavar="FILE", help="A party's own file; repeat it.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder to write.")],
    program: Annotated[
        Path | None,
        typer.Option("--program", metavar="PATH", help="The sealtune command on the host [this]."),
    ] = None,
    image: Annotated[
        str, typer.Option("--image", metavar="NAME", help="Container image with sealtune.")
    ] = "sealtune",
) -> None:
    """Write systemd units and a compose file for the parties of one host, and for a coordinator
    the configuration of a reverse proxy; install nothing.

    Each party's program gets an account of its own, and what connects it to the network another
    one, which reaches the program's socket and nothing else of it.

    Examples:

        sealtune deploy render --local north.toml -o services

        sealtune deploy render --local coordinator.toml --local server.toml -o services

    What comes next stands in what it prints: copy, make accounts, check, start.
    """
    from sealtune import deploy as room
    from sealtune.job.local_file import load_local
    from sealtune.job.storage import write_atomic

    parties = {file.absolute(): load_local(file) for file in local}
    services = room.services_of(parties)
    command = program or Path(shutil.which("sealtune") or Path(sys.executable).parent / "sealtune")
    files = {f"systemd/{one.name}.service": room.unit(one, command) for one in services}
    files["sysusers.d/sealtune.conf"] = room.accounts_file(services)
    files["tmpfiles.d/sealtune.conf"] = room.folders_file(services)
    files["compose.yaml"] = room.compose_file(services, image)
    for party in parties.values():
        if party.role == "coordinator":
            files |= _proxy(party, out.absolute())
    for name, text in files.items():
        write_atomic(out / name, text.encode())
        typer.echo(out / name)
    typer.echo(_next(out, services))


def _proxy(local: Local, out: Path) -> dict[str, str]:
    """What a proxy before the relay reads, if there shall be one: file -> text."""
    from sealtune.deploy import nginx
    from sealtune.job.dsse import Envelope
    from sealtune.job.manifest import open_manifest
    from sealtune.job.network import host_and_port
    from sealtune.sockets import parse

    network = open_manifest(Envelope.read(local.manifest)).network
    if network is None or local.tls_key is None:
        return {}
    name, port = host_and_port(network.sites_at)
    relay = parse(local.listen)
    at = "127.0.0.1" if relay.place in _ANYWHERE else relay.place
    certificate = out / "nginx" / "relay.pem"
    text = nginx(str(port), name, f"{at}:{relay.port}", certificate, local.tls_key)
    return {"nginx/sealtune.conf": text, "nginx/relay.pem": network.certificate}


def _next(out: Path, services: Sequence[Service]) -> str:
    from sealtune.deploy.containers import numbers

    here = shlex.quote(str(out))
    names = [service.name for service in services if not service.of]
    owners = numbers(services)
    chown = "\n".join(
        f"  chown {owners[one.name]} {shlex.join(str(path) for path in (*one.writes, *one.keys))}"
        for one in services
    )
    trial = "".join(
        f"  install -D -m 600 -o {one.user} -g {one.group} {_KEY} /var/lib/{one.state}/{_KEPT}\n"
        for one in services
        if one.simulated
    )
    if trial:
        trial = f"A trial's simulated evidence is signed with the key of its cards:\n{trial}"
    return f"""
With systemd, as root:
  cp {here}/systemd/*.service /etc/systemd/system/
  cp {here}/sysusers.d/sealtune.conf /etc/sysusers.d/ && systemd-sysusers
  cp {here}/tmpfiles.d/sealtune.conf /etc/tmpfiles.d/ && systemd-tmpfiles --create sealtune.conf
  systemctl daemon-reload && systemctl enable --now {" ".join(names)}
  journalctl -f -u {names[0]}
The accounts must be able to read manifest, local file, model and data.
{trial}
With containers, in place of that, and folders and keys made over to them:
{chown}
  docker compose -f {here}/compose.yaml up"""
