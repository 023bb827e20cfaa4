"""The one place where errors become words on the screen and an exit code.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import errno
from typing import Any

import click
import typer
from typer.core import TyperGroup

from sealtune.errors import SealtuneError, StorageError
from sealtune.job.printable import printable_lines
from sealtune.job.storage import reason

INTERRUPTED = 130  # what shells use for Ctrl-C

# Faults of the machine, not of the program; any other OSError is a bug and keeps its traceback.
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


class Commands(TyperGroup):
    """A command group that reports ``SealtuneError`` and Ctrl-C instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; end with the error's own exit code."""
        try:
            return super().invoke(ctx)
        except SealtuneError as error:
            show(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            click.echo("\ninterrupted", err=True)
            raise typer.Exit(INTERRUPTED) from error
        except OSError as error:
            if error.errno not in _STORAGE:
                raise
            where = f": {error.filename}" if error.filename else ""
            failure = StorageError(
                f"{reason(error)}{where}",
                hint="free some space or check the permissions",
            )
            show(failure)
            raise typer.Exit(failure.exit_code) from error


def show(error: SealtuneError) -> None:
    """Print ``error`` on stderr: a red title, the message, and what to do next."""
    from rich.console import Console
    from rich.text import Text

    # Soft wrap: long paths stay whole, so they can be copied and searched for.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    title = title_of(error)
    # names in files, paths and arguments must not steer the terminal
    console.print(Text.assemble((f"{title}: ", "bold red"), printable_lines(error.message)))
    if error.hint:
        console.print(Text.assemble(("→ ", "bold cyan"), printable_lines(error.hint)))


def title_of(error: SealtuneError) -> str:
    """``ConfigError`` becomes ``Config error``."""
    name = type(error).__name__.removesuffix("Error")
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
    return f"{words[:1].upper()}{words[1:]} error"
