"""Orders to a program that runs rounds, and what it reports: files in a folder.

The measuring process writes ``order-K.json``, the program answers with ``done-K.json``. Both sides
of ``deploy.py``, Flower's ServerApp and sealtune's stand-in server, take the same orders.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LOOK = 0.005  # seconds between two looks for a file


@dataclass(frozen=True)
class Order:
    """Some rounds one after another.

    Attributes:
        rounds: how many.
        values: float32 numbers in the adapter.
        arrays: tensors that Flower's app cuts them into.
        work: seconds that each site works on a message.
    """

    rounds: int
    values: int
    arrays: int
    work: float


class Gate:
    """The folder, from both ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0

    def order(self, order: Order, alive: Callable[[], None], patience: float) -> list[float]:
        """Have rounds run; returns the seconds of each.

        Args:
            alive: raises when a program has ended.
            patience: seconds.
        """
        self._number += 1
        done = self._folder / f"done-{self._number}.json"
        _write(self._folder / f"order-{self._number}.json", asdict(order))
        end = time.monotonic() + patience
        while not done.exists():
            alive()
            if time.monotonic() > end:
                raise SystemExit(f"{order} was not done in {patience:.0f} s")
            time.sleep(LOOK)
        seconds: list[float] = json.loads(done.read_bytes())
        return seconds

    def orders(self) -> Iterator[tuple[Order, Callable[[list[float]], None]]]:
        """Orders as they come, each with where the seconds of its rounds go; never ends."""
        while True:
            self._number += 1
            path = self._folder / f"order-{self._number}.json"
            while not path.exists():
                time.sleep(LOOK)
            done = path.with_name(f"done-{self._number}.json")
            yield Order(**json.loads(path.read_bytes())), lambda s, done=done: _write(done, s)


def _write(path: Path, content: Any) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(path)
