"""One of sealtune's commands on a host, and what it says.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from sealtune.demo.hosts import Host
from sealtune.errors import ProcessDiedError

SEALTUNE = str(Path(sys.executable).with_name("sealtune"))
_MAX_LINE = 1 << 20  # bytes of an event
_TAIL = 2000  # characters of a log that an error shows
Said = dict[str, Any]  # an event's fields


class Party:
    """A command of a job's party, such as ``sealtune site --local site.toml``.

    Args:
        host: where it runs.
        arguments: of ``sealtune``.
        hear: told every event, from a thread of the party's own.
        command: what to run instead, under the same name.

    Attributes:
        events: all events so far.
        log: file of what it says to people.
    """

    def __init__(
        self,
        host: Host,
        arguments: Sequence[str],
        hear: Callable[[Said], None] = lambda _: None,
        command: Sequence[str] = (),
    ) -> None:
        self.host = host
        self.name = " ".join(arguments)
        self.events: list[Said] = []
        self.log = host.folder / f"{arguments[0]}.log"
        self._hear = hear
        self._new = threading.Condition()
        with self.log.open("ab") as log:
            self.process = host.start(
                command or [SEALTUNE, *arguments], stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self.process.stdout,), daemon=True, name=self.name
        )
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def of(self, kind: str) -> list[Said]:
        """Its events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def until(self, happened: Callable[[Self], bool], timeout: float = 240.0) -> Self:
        """Wait until what it said fulfils a condition.

        Raises:
            ProcessDiedError: it ended before, or time is up; with the end of its log.
        """
        with self._new:
            while not happened(self):
                said = len(self.events)
                if not self._reader.is_alive():
                    raise self._failure(f"ended with code {self.process.wait()}")
                if not self._new.wait(timeout) and len(self.events) == said:
                    raise self._failure(f"said nothing for {timeout:g} s")
        return self

    def until_ready(self) -> Self:
        """Wait for the line that says that everything of the party stands."""
        return self.until(lambda party: bool(party.of("ready")))

    def check(self) -> None:
        """Raise ProcessDiedError if it has ended otherwise than well."""
        if code := self.process.poll():
            raise self._failure(f"ended with code {code}")

    def end(self, timeout: float = 240.0) -> int:
        """Wait for its end; returns its exit code.

        Raises:
            ProcessDiedError: it does not end.
        """
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise self._failure(f"has not ended within {timeout:g} s") from error
        self._reader.join(timeout)
        return code

    def stop(self) -> int:
        """Ask it to end in good order; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def kill(self) -> None:
        """End it and all that it started, as when the power fails."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def _read(self, stream: BinaryIO) -> None:
        for event in _events(stream):
            with self._new:
                self.events.append(event)
                self._new.notify_all()
            self._hear(event)
        with self._new:
            self._new.notify_all()

    def _failure(self, what: str) -> ProcessDiedError:
        log = self.log.read_text(errors="replace")[-_TAIL:]
        last = "".join(f"\n  {event}" for event in self.events[-3:])
        return ProcessDiedError(f"`sealtune {self.name}` on {self.host.name} {what}{last}\n{log}")


def _events(stream: BinaryIO) -> Iterator[Said]:
    while line := stream.readline(_MAX_LINE):
        try:
            found = json.loads(line)
        except ValueError:
            found = {"event": "nonsense", "line": repr(line[:200])}
        yield found if isinstance(found, dict) and "event" in found else {"event": "nonsense"}
