"""The processes of a run: starts them, turns what they say and how they end into action, stops
them.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sealtune.job.event_log import Bye, Network
from sealtune.job.events import Done, Error, Event, Ready
from sealtune.launch import environment
from sealtune.launch.child import Child, Exit, Failure, Inbox, Interrupt, Item
from sealtune.launch.domain import GLUE, Domain
from sealtune.launch.failure import Death, cause, may_pass

_TICK = 0.1  # seconds; how often waiting code looks whether it may go on
_ROOT_CAUSE = 0.7  # seconds to wait for more deaths after the first, to find the first cause
_GRACE = 4.0  # seconds between asking a process to end and making it
_REJOIN = (1.0, 2.0, 5.0, 10.0)  # seconds before a process is started again, by attempt
_REJOINS = 12  # attempts in a row
_STEADY = 30.0  # seconds that make an attempt a success


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; everything has been stopped in good order.

    Attributes:
        signum: the signal.
        exit_code: as shells count, 130 for Ctrl-C.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
        self.exit_code = 128 + signum


@dataclass
class _Restart:
    """How to start a process again."""

    domain: Domain
    over: Callable[[], bool]
    attempts: int = 0
    started: float = 0.0
    due: float | None = None


@dataclass
class Processes:
    """All children of the launcher.

    Attributes:
        logs: folder of their logs.
        on_event: called with each event and its role.
        on_tick: called at least ten times a second while waiting.
        inbox: where threads and signal handlers put what happened.
        children: role -> the process, also when it has ended.
        ended: role -> exit code.
        ready, done: roles that said so.
        finishing: the work is done: our own processes may end now.
        settled: everything has started, so what ends can be expected to work when started again.
    """

    logs: Path
    on_event: Callable[[Event], None]
    on_tick: Callable[[], None]
    inbox: Inbox = field(default_factory=queue.SimpleQueue)
    children: dict[str, Child] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    finishing: bool = False
    settled: bool = False
    _said: dict[str, Error] = field(default_factory=dict)
    _restarts: dict[str, _Restart] = field(default_factory=dict)

    def log(self, role: str) -> Path:
        """The log file of a process."""
        return self.logs / f"{role.replace(':', '-')}.log"

    def start(
        self, domain: Domain, *, again: bool = False, over: Callable[[], bool] = lambda: False
    ) -> None:
        """Start a process.

        Args:
            domain: what.
            again: start it again when it ends, unless it says why that would not help.
            over: whether it may end, in good order, for good.
        """
        role = domain.role
        if again:
            restart = self._restarts.setdefault(role, _Restart(domain, over))
            restart.started, restart.due = time.monotonic(), None
        self.ended.pop(role, None)
        self._said.pop(role, None)
        self.done.discard(role)
        given = domain.variables
        variables = given if domain.is_glue else environment.variables(given)
        log = self.log(role)
        self.children[role] = Child.start(role, domain.command, variables, log, self.inbox)

    def until(self, condition: Callable[[], bool], timeout: float = float("inf")) -> bool:
        """Act on what happens until ``condition`` holds (True) or time is up (False).

        Raises:
            SealtuneError: a process ended that should not have.
            Interrupted: the user wants to stop.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() >= end:
                return False
            self._start_again()
            item = self._next(_TICK)
            if item is not None:
                self._act(item)
            self.on_tick()
        return True

    def stop(self, roles: Sequence[str]) -> None:
        """Ask processes to end."""
        for role in roles:
            self.children[role].stop()

    def stop_all(self) -> None:
        """End everything: ours are asked first, since an enclave may have state to seal.

        A second Ctrl-C cuts the waiting short.
        """
        self._restarts.clear()
        ours = [c for r, c in self.children.items() if not r.startswith(GLUE)]
        for role, child in self.children.items():
            if role.startswith(GLUE):
                child.kill()  # it holds nothing that outlives the run
        for child in ours:
            child.stop()
        end = time.monotonic() + _GRACE
        while not all(child.ended for child in ours) and time.monotonic() < end:
            item = self._next(_TICK)
            if isinstance(item, Interrupt):
                break
            if isinstance(item, Event):
                self.on_event(item)
            self.on_tick()
        for child in self.children.values():
            child.kill()
        for child in self.children.values():
            child.join(_GRACE)
        while (item := self._next(0)) is not None:
            if isinstance(item, Event):
                self.on_event(item)

    def _next(self, timeout: float) -> Item | None:
        try:
            return self.inbox.get(timeout=timeout) if timeout else self.inbox.get_nowait()
        except queue.Empty:
            return None

    def _act(self, item: Item) -> None:
        if isinstance(item, Interrupt):
            raise Interrupted(item.signum)
        if isinstance(item, Failure):
            raise item.error
        if isinstance(item, Event):
            self._heard(item)
            return
        death = self._gone(item)
        if death is not None:
            raise cause([death, *self._other_deaths()])

    def _heard(self, item: Event) -> None:
        if isinstance(item, Ready):
            self.ready.add(item.role)
        elif isinstance(item, Done | Bye):
            self.done.add(item.role)
        elif isinstance(item, Error):
            self._said[item.role] = item
        self.on_event(item)

    def _gone(self, item: Exit) -> Death | None:
        """Take note of an end; returns it if it should not have been."""
        role, code = item.role, item.code
        self.ended[role] = code
        said = self._said.get(role)
        clean = code == 0 and said is None
        restart = self._restarts.get(role)
        if restart is not None and self.settled:
            if self.finishing or (clean and restart.over()):
                return None
            if may_pass(said):
                return self._plan_restart(restart, code, said)
        if clean and (self.finishing or role in self.done):
            return None
        if self.finishing and said is None and not role.startswith(GLUE):
            return None  # asked to end, it did, by the signal that asked
        child = self.children[role]
        return Death(role, code, said, child.log, child.tail())

    def _other_deaths(self) -> list[Death]:
        """What else dies within a moment."""
        deaths = []
        end = time.monotonic() + _ROOT_CAUSE
        while (left := end - time.monotonic()) > 0:
            item = self._next(left)
            if isinstance(item, Event):
                self._heard(item)
            elif isinstance(item, Exit) and (death := self._gone(item)) is not None:
                deaths.append(death)
        # what a party has said of itself counts before its process is quite gone
        deaths += [
            Death(role, 1, said, self.log(role))
            for role, said in self._said.items()
            if role in self.children and role not in self.ended
        ]
        return deaths

    def _plan_restart(self, restart: _Restart, code: int, said: Error | None) -> Death | None:
        role = restart.domain.role
        now = time.monotonic()
        if said is None and now - restart.started > _STEADY:
            restart.attempts = 0
        if restart.attempts >= _REJOINS:
            child = self.children[role]
            return Death(role, code, said, child.log, child.tail())
        restart.due = now + _REJOIN[min(restart.attempts, len(_REJOIN) - 1)]
        restart.attempts += 1
        why = f"{said.error}: {said.message}" if said else f"code {code}"
        state = f"{role.removeprefix(GLUE)} ended ({why}), starting it again"
        self.on_event(Network(role="flower", state=state, attempt=restart.attempts))
        return None

    def _start_again(self) -> None:
        for restart in self._restarts.values():
            if restart.due is not None and time.monotonic() >= restart.due:
                self.start(restart.domain, again=True)
