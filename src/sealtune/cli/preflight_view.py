"""What ``--check`` of a party's command shows.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sealtune.job.local import Local
    from sealtune.launch.preflight import Row


def show_check(local: Local, *, as_json: bool) -> None:
    """Show everything that was looked at; end with the code of the first error."""
    from sealtune.launch.preflight import preflight

    rows = list(preflight(local, _image if local.image else None))
    if as_json:
        typer.echo(json.dumps(_content(local, rows), indent=2))
    else:
        _table(local, rows)
    for row in rows:
        if row.error is not None:
            raise typer.Exit(row.error.exit_code)


def _content(local: Local, rows: Sequence[Row]) -> dict[str, object]:
    return {
        "party": local.name,
        "ok": not any(row.error for row in rows),
        "checks": [
            {
                "what": row.what,
                "ok": row.error is None,
                "said": row.said,
                "hint": row.error.hint if row.error else "",
                "error": type(row.error).__name__ if row.error else None,
                "code": row.error.exit_code if row.error else 0,
            }
            for row in rows
        ],
    }


def _table(local: Local, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sealtune.job.printable import printable_lines

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for row in rows:
        said = Text(printable_lines(row.said))
        if row.error is not None and row.error.hint:
            said.append(f"\n→ {printable_lines(row.error.hint)}", style="cyan")
        mark = Text("ok", "green") if row.error is None else Text("wrong", "bold red")
        table.add_row(mark, Text(row.what, "bold"), said)
    console.print(table)
    wrong = sum(row.error is not None for row in rows)
    what = "nothing is in the way" if not wrong else f"{wrong} of {len(rows)} in the way"
    console.print(Text(f"{local.name}: {what}; nothing was started"))


def _image(local: Local) -> str:
    """Whether the image of ``local`` can be booted for it."""
    from sealtune.images.handed import fitting
    from sealtune.images.image import Image
    from sealtune.images.machine import find_qemu

    find_qemu()
    image = Image.read(local.image or Path())
    fitting(image, local)
    return f"{image.folder} holds the {image.contents.program} of this job"
