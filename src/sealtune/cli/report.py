"""``sealtune report RUN_DIR``: rebuild a run's summary and page from its log.

Trust domain: server operator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sealtune.report import write


def report(
    run_dir: Annotated[
        Path, typer.Argument(help="Folder that `sealtune run` wrote, such as runs/my-job.")
    ],
) -> None:
    """Rewrite summary.json and report.html of a run, finished or not."""
    typer.echo(write(run_dir))
