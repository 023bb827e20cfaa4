"""``sealtune evaluate``: score an adapter on the original weights.

Trust domain: whoever received the adapter; no enclave takes part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Adapter = Annotated[
    Path, typer.Option("--adapter", metavar="DIR", help="The folder adapter/ of a run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def evaluate(
    job_file: Annotated[Path, typer.Argument(metavar="JOB.toml", help="The job file.")],
    adapter: Adapter,
    as_json: AsJson = False,
) -> None:
    """Score an adapter on the job's test rows: original weights, plain peft, no enclave.

    Example: `sealtune evaluate job.toml --adapter runs/NAME/adapter`
    """
    from time import perf_counter

    from rich.console import Console

    from sealtune.job.load import check_files, load_job

    job = load_job(job_file)
    check_files(job)
    start = perf_counter()
    with Console(stderr=True).status("loading the model") as status:
        from sealtune.tuning.inference import score_adapter

        done = 0

        def count(tokens: int) -> None:
            nonlocal done
            done += tokens
            status.update(f"answering the test rows: {done:,} tokens")

        result = score_adapter(job, adapter, on_batch=count)
    result = {
        "adapter": str(adapter),
        "weights": "original",
        **result,
        "seconds": round(perf_counter() - start, 3),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _show_scores(result, Console(highlight=False), tokens=job.model.task == "causal-lm")


def _show_scores(result: dict[str, Any], console: Console, *, tokens: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="on the original weights", title_justify="left")
    table.add_column("site")
    for name in ("test tokens" if tokens else "test rows", "right", "accuracy", "loss"):
        table.add_column(name, justify="right")
    for site, line in result["per_site"].items():
        table.add_row(Text(site), *_cells(line))
    table.add_section()
    table.add_row("all", *_cells(result), style="bold")
    console.print(table)
    if result["majority_class"] is not None:
        console.print(f"always the largest class: {result['majority_class']:.1%}")


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    accuracy = "–" if line["accuracy"] is None else f"{line['accuracy']:.1%}"
    return f"{line['total']:,}", f"{line['correct']:,}", accuracy, f"{line['loss']:.3f}"
