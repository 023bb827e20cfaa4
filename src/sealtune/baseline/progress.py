"""A progress bar over all steps of a baseline: what it does, loss, time left.

Trust domain: none; for comparison only.
"""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sealtune.model.training import StepInfo


class Bar(Progress):
    """Counts steps.

    Args:
        title: what runs.
        total: number of steps.
        quiet: show nothing.
    """

    def __init__(self, title: str, total: int, *, quiet: bool) -> None:
        super().__init__(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[phase]}"),
            console=Console(stderr=True, quiet=quiet),
        )
        self._only = self.add_task(title, total=total, loss="-", phase="")

    def phase(self, text: str) -> None:
        """Say what is being done."""
        self.update(self._only, phase=text)

    def step(self, info: StepInfo) -> None:
        """One more step is done."""
        self.update(self._only, advance=1, loss=f"{info.loss:.3f}")
