"""The command groups of a job's parties: what each is called with, and where its commands are.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import typer

from sealtune.cli.describe import describe_coordinator, describe_server, describe_site


def _group(words: str) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help=words)


site = _group("A site of a job: describe it for the manifest.")
server = _group("The server of a job: describe it for the manifest.")
coordinator = _group("The coordinator of a job, where all others connect to.")

site.command("describe")(describe_site)
server.command("describe")(describe_server)
coordinator.command("describe")(describe_coordinator)
