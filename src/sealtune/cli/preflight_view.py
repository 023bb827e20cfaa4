"""What ``--check`` of a party's command shows.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from sealtune.job.local import Local


def show_check(local: Local, *, as_json: bool) -> None:
    """Admit the party, and say so."""
    from sealtune.launch.parties import admit_party

    admitted = admit_party(local)
    typer.echo(f"{local.name} is admitted to job {admitted.job_id}")
