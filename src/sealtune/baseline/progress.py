"""A progress bar over all steps of a baseline: what it does, loss, time left.

Trust domain: none; for comparison only.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sealtune.model.training import StepInfo


class Steps:
    """Counts steps.

    Args:
        title: what runs.
        total: number of steps.
        quiet: show nothing.
    """

    def __init__(self, title: str, total: int, *, quiet: bool) -> None:
        self._bar = Progress(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[phase]}"),
            console=Console(stderr=True, quiet=quiet),
        )
        self._task = self._bar.add_task(title, total=total, loss="-", phase="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def phase(self, text: str) -> None:
        """Say what is being done."""
        self._bar.update(self._task, phase=text)

    def advance(self, info: StepInfo) -> None:
        """One more step is done."""
        self._bar.update(self._task, advance=1, loss=f"{info.loss:.3f}")
