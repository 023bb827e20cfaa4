"""``sealtune clean``: remove the sealed activations of a finished split job.

Trust domain: server operator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def clean(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="Also of a run that has not finished: it cannot be resumed afterwards.",
        ),
    ] = False,
) -> None:
    """Remove the sealed cut activations that a split job keeps in RUN/state/activations.

    They are needed to train and to resume, and for nothing after the run has finished. Checkpoint,
    adapter, report and logs stay; `sealtune predict --run` still answers.

    Example: `sealtune clean runs/NAME`
    """
    from sealtune.errors import ConfigError, Problem, StorageError
    from sealtune.job.event_log import End
    from sealtune.job.units import size
    from sealtune.launch.folder import remove_activations
    from sealtune.report import read_run
    from sealtune.report.methods import view_of

    log = read_run(run_dir)
    if not view_of(log.method).method.server_trains:
        raise ConfigError(
            "RUN", [Problem(str(run_dir), "is not a split job's run: it keeps no activations")]
        )
    end = log.last(End)
    if (end is None or end.outcome != "ok") and not unfinished:
        raise StorageError(
            f"the run in {run_dir} has not finished: it needs its activations to go on",
            hint="`sealtune run JOB.toml --resume` goes on; --unfinished removes them all the same",
        )
    count, freed = remove_activations(run_dir)
    typer.echo(f"removed {count} files of sealed activations, {size(freed)}, from {run_dir}")
