"""Shows a run on a terminal, live; or as plain lines where there is no terminal.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sealtune.job.units import duration, size
from sealtune.launch.progress import Progress, Worker

_PLAIN_EVERY = 10.0  # seconds between two progress lines where there is no terminal
_WIDE = 100  # columns; a narrower terminal is spared the bar and the traffic


class Display:
    """Keeps a ``Progress`` on screen.

    Args:
        console: where.
        progress: what; read whenever it is drawn.
        title: the run's name.
    """

    def __init__(self, console: Console, progress: Progress, title: str) -> None:
        self._console = console
        self._progress = progress
        self._title = title
        self._start = time.monotonic()
        self._live: Live | None = None
        self._next_line = 0.0
        self._last_line = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.update()
        if self._live is not None:
            self._live.stop()

    def update(self) -> None:
        """Say what is new: notices always; without a terminal, now and then where things stand."""
        for notice in self._progress.notices:
            self._say(notice)
        self._progress.notices.clear()
        now = time.monotonic()
        if self._live is None and now >= self._next_line:
            line = self._line()
            if line != self._last_line:
                self._say(line)
                self._last_line = line
            self._next_line = now + _PLAIN_EVERY

    def _say(self, line: str) -> None:
        stamp = duration(time.monotonic() - self._start).rjust(11)
        self._console.print(Text(f"{stamp}  {line}"), soft_wrap=True)

    def _line(self) -> str:
        """Where things stand, in one line; once the server enclave trains, where it is."""
        progress = self._progress
        sites = [_short(name, site) for name, site in progress.sites.items()]
        if not progress.server_trains:
            return " | ".join(sites)
        server = progress.server
        if progress.training_since is None or progress.rounds_done >= progress.rounds:
            return " | ".join([f"server enclave: {server.doing}", *sites])
        line = f"round {_round(progress)} of {progress.rounds}, {_short('server enclave', server)}"
        if server.accuracy is not None:
            line += f", accuracy {server.accuracy:.1%}"
        left = progress.seconds_left(time.time())
        return line if left is None else f"{line}, about {duration(left)} left"

    def __rich__(self) -> RenderableType:
        """The picture; called by ``Live`` from its own thread."""
        return Group("", self._heading(), "", self._table(), "", self._others())

    def _heading(self) -> Text:
        progress = self._progress
        text = Text()
        text.append(self._title, style="bold")
        text.append(f"   {duration(time.monotonic() - self._start)}")
        if progress.training_since is not None:
            text.append(f"   round {_round(progress)} of {progress.rounds}")
        left = progress.seconds_left(time.time())
        if left is not None:
            text.append(f"   about {duration(left)} left", style="cyan")
        return text

    def _table(self) -> Table:
        wide = self._console.width >= _WIDE
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        first = "" if self._progress.server_trains else "site"
        for heading in (first, "what it does", "step"):
            table.add_column(heading, no_wrap=True)
        if wide:
            table.add_column("", width=16)
        for heading in ("loss", "accuracy", *(["in / out"] if wide else [])):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, site in self._progress.sites.items():
            table.add_row(*self._row(name, site, wide))
        if self._progress.server_trains:
            row = self._row("server enclave", self._progress.server, wide)
            table.add_row(*row[: len(row) - wide])  # its traffic is that of the sites
        return table

    def _row(self, name: str, site: Worker, wide: bool) -> list[RenderableType]:
        doing = Text(site.doing)
        if site.note:
            doing = Text(site.note, style="yellow", overflow="ellipsis")
        row: list[RenderableType] = [Text(name, style="bold"), doing]
        row.append(f"{site.step}/{site.of}" if site.of else "")
        if wide:
            row.append(ProgressBar(total=site.of, completed=site.step) if site.of else "")
        row.append("" if site.loss is None else f"{site.loss:.3f}")
        row.append("" if site.accuracy is None else f"{site.accuracy:.1%}")
        if wide:
            row.append(f"{size(site.bytes_down)} / {size(site.bytes_up)}")
        return row

    def _others(self) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        progress = self._progress
        if progress.server_trains:  # it stands in the table, and there is no accelerator
            rows = [("last result", progress.last_round)] if progress.last_round else []
        else:
            rows = [(progress.server_name, progress.server.doing)]
            if progress.accelerator:
                rows.append(("accelerator", progress.accelerator))
            if progress.pads:
                rows.append(("pad accelerator", progress.pads))
        for name, text in (*rows, ("network (Flower)", progress.network)):
            table.add_row(Text(name, style="dim"), Text(text))
        return table


def _round(progress: Progress) -> int:
    """The round under way."""
    return min(progress.rounds_done + 1, progress.rounds)


def _short(name: str, site: Worker) -> str:
    text = f"{name}: {site.doing}"
    if site.of:
        text += f" {site.step}/{site.of}"
    if site.loss is not None:
        text += f", loss {site.loss:.3f}"
    return text
