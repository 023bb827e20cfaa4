"""What benchmarks print: tables that are Markdown, and how far the runs have come.

with progress(len(runs)) as report:
    report("icd10 lora seed 1")
Console().print(table("accuracy", ("set", "%"), rows))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table that is Markdown where it is copied to."""
    made = Table(title=f"{title}\n", title_justify="left", title_style="bold", box=MARKDOWN)
    for column in columns:
        made.add_column(column, no_wrap=True)
    for row in rows:
        made.add_row(*map(str, row))
    return made


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, otherwise a line for each finished run; both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        count = iter(range(1, total + 1))
        yield lambda text: print(f"{next(count)}/{total} {text}", file=sys.stderr, flush=True)
        return
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        line = bar.add_task("runs", total=total)
        yield lambda text: bar.update(line, advance=1)
