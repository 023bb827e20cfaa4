"""Child processes: what they say, how they end, what they leave, and whose fault it was."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sealtune.errors import (
    AcceleratorLostError,
    AttestationError,
    ConfigError,
    FederationError,
    ProcessDiedError,
    SealtuneError,
    SiteLostError,
)
from sealtune.job.event_log import Network
from sealtune.job.events import Error, Event, Ready
from sealtune.launch import Interrupted
from sealtune.launch.child import Child, Exit, Inbox, Interrupt
from sealtune.launch.domain import Domain
from sealtune.launch.failure import Death, cause, revive
from sealtune.launch.processes import Processes


def start(code: str, log: Path, inbox: Inbox) -> Child:
    return Child.start("x", [sys.executable, "-c", code], {}, log, inbox)


def items(inbox: Inbox) -> list[Any]:
    found = []
    while not found or not isinstance(found[-1], Exit):
        found.append(inbox.get(timeout=20))
    return found


def test_events_text_and_exit_code(tmp_path: Path) -> None:
    inbox: Inbox = queue.SimpleQueue()
    code = (
        "import sys\n"
        'print(\'{"event": "ready", "role": "forged", "time": 0}\')\n'
        "print('by the way')\n"
        "print('[1]')\n"
        "print('trouble', file=sys.stderr)\n"
        "sys.exit(3)"
    )
    child = start(code, tmp_path / "log", inbox)
    assert items(inbox) == [Ready(role="x", time=0), Exit("x", 3)]
    child.join(5)
    assert sorted(child.tail().splitlines()) == ["[1]", "by the way", "trouble"]


def test_a_signal_is_a_negative_code(tmp_path: Path) -> None:
    inbox: Inbox = queue.SimpleQueue()
    child = start("import time; time.sleep(60)", tmp_path / "log", inbox)
    child.kill()
    assert items(inbox) == [Exit("x", -signal.SIGKILL)]
    child.kill()  # no process any more: nothing happens
    child.stop()


def test_what_a_dead_process_started_ends_with_it(tmp_path: Path) -> None:
    inbox: Inbox = queue.SimpleQueue()
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        'print(\'{"event": "memory", "peak_mib": %d}\' % p.pid)'
    )
    start(code, tmp_path / "log", inbox)
    pid = int(items(inbox)[0].peak_mib)
    eventually(lambda: gone(pid))


def test_children_die_with_the_launcher(tmp_path: Path) -> None:
    """Also when it is killed, and can clean up nothing."""
    code = (
        "import queue, sys, time\n"
        "from pathlib import Path\n"
        "from sealtune.launch.child import Child\n"
        "child = Child.start('x', [sys.executable, '-c', 'import time; time.sleep(60)'], {},\n"
        f"                    Path({str(tmp_path / 'log')!r}), queue.SimpleQueue())\n"
        "print(child.process.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        pid = int(launcher.stdout.readline())
        assert not gone(pid)
        launcher.kill()
    eventually(lambda: gone(pid))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.02)


def death(role: str, code: int, error: str = "") -> Death:
    said = Error(error=error, code=code, message="m", hint="h") if error else None
    return Death(role, code, said, Path("/logs/x.log"), "one\ntwo")


def test_the_killed_process_is_the_cause() -> None:
    deaths = [
        death("client:a", 5, "AcceleratorLostError"),
        death("server", 8, "SiteLostError"),
        death("accelerator", -9),
        death("flower:relay", 8, "FederationError"),
    ]
    error = cause(deaths)
    assert isinstance(error, ProcessDiedError)
    assert error.message == "accelerator was killed by SIGKILL (signal 9)"
    assert "/logs/x.log" in error.hint
    assert "    one\n    two" in error.hint
    assert "memory" in error.hint


def test_an_accelerator_that_fails_comes_before_those_that_miss_it() -> None:
    deaths = [death("client:a", 5, "AcceleratorLostError"), death("accelerator", 4, "ModelError")]
    assert str(cause(deaths)).startswith("accelerator: m")


def test_who_says_why_comes_before_who_does_not() -> None:
    error = cause([death("flower:relay", 1), death("client:a", 3, "DataError")])
    assert (type(error).__name__, error.exit_code) == ("DataError", 3)
    error = cause([death("server", 1)])
    assert error.message == "server ended unexpectedly with exit code 1"


@pytest.mark.parametrize(
    ("said", "kind", "exit_code"),
    [
        ({"error": "AcceleratorLostError", "code": 5}, AcceleratorLostError, 5),
        ({"error": "ConfigError", "code": 2}, ConfigError, 2),
        ({"error": "DebugEnclaveError", "code": 7}, AttestationError, 7),
        ({"error": "KeyError", "code": 1}, FederationError, 8),
        ({"error": "Sequence"}, FederationError, 8),
    ],
)
def test_errors_of_other_processes(said: dict[str, Any], kind: type, exit_code: int) -> None:
    error = revive("client:a", Error(**said, message="what", hint="do"))
    assert type(error) is kind
    assert error.exit_code == exit_code
    assert str(error) == "client:a: what\n  → do"


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path, lambda event: None, lambda: None)


def python(role: str, code: str) -> Domain:
    return Domain(role, [sys.executable, "-u", "-c", code])


def test_an_early_end_ends_the_run(processes: Processes) -> None:
    processes.start(python("server", "import time; time.sleep(60)"))
    processes.start(python("accelerator", "import sys; sys.exit('no weights')"))
    with pytest.raises(ProcessDiedError, match="accelerator ended unexpectedly") as caught:
        processes.until(lambda: False)
    assert "no weights" in caught.value.hint
    processes.stop_all()
    assert all(child.ended for child in processes.children.values())


def test_an_end_without_a_word_of_being_done_is_early(processes: Processes) -> None:
    processes.start(python("server", "pass"))
    with pytest.raises(ProcessDiedError, match="exit code 0"):
        processes.until(lambda: False)


def test_done_and_ended_is_fine(processes: Processes) -> None:
    processes.start(python("server", 'print(\'{"event": "done"}\')'))
    assert processes.until(lambda: "server" in processes.ended)


def test_a_process_that_says_why_it_fails(processes: Processes) -> None:
    event = '{"event": "error", "error": "DataError", "code": 3, "message": "m", "hint": ""}'
    processes.start(python("client:a", f"print('{event}'); raise SystemExit(3)"))
    with pytest.raises(Exception, match="client:a: m") as caught:
        processes.until(lambda: False)
    assert type(caught.value).__name__ == "DataError"


def test_some_processes_are_started_again(tmp_path: Path) -> None:
    seen: list[Event] = []
    processes = Processes(tmp_path, seen.append, lambda: None)
    marker = tmp_path / "marker"
    code = f"import pathlib, time\np = pathlib.Path({str(marker)!r})\n"
    code += "n = p.exists()\np.touch()\ntime.sleep(60 if n else 0)"
    processes.settled = True
    processes.start(python("flower:node:a", code), again=True)
    first = processes.children["flower:node:a"].process.pid
    processes.until(lambda: processes.children["flower:node:a"].process.pid != first)
    again = "node:a ended (code 0), starting it again"
    assert seen == [Network(role="flower", state=again, attempt=1)]
    processes.stop_all()


def test_nothing_is_started_again_before_it_has_worked(processes: Processes) -> None:
    processes.start(python("flower:node:a", "raise SystemExit('bad key')"), again=True)
    with pytest.raises(ProcessDiedError) as caught:
        processes.until(lambda: False)
    assert "bad key" in caught.value.hint


def says(error: str, code: int) -> str:
    event = {"event": "error", "error": error, "code": code, "message": "m", "hint": ""}
    return f"import sys; print({json.dumps(event)!r}, flush=True); sys.exit({code})"


def test_who_lost_another_is_started_again_and_gives_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealtune.launch.processes._REJOIN", (0.0,))
    monkeypatch.setattr("sealtune.launch.processes._REJOINS", 2)
    seen: list[Event] = []
    processes = Processes(tmp_path, seen.append, lambda: None, settled=True)
    processes.start(python("server", says("SiteLostError", 8)), again=True)
    with pytest.raises(SiteLostError, match="server: m"):
        processes.until(lambda: False)
    assert [e.attempt for e in seen if isinstance(e, Network)] == [1, 2]


@pytest.mark.parametrize(
    ("error", "code"), [("DigestMismatchError", 10), ("UnknownKeyError", 10), ("ConfigError", 2)]
)
def test_who_is_refused_is_not_started_again(tmp_path: Path, error: str, code: int) -> None:
    seen: list[Event] = []
    processes = Processes(tmp_path, seen.append, lambda: None, settled=True)
    processes.start(python("server", says(error, code)), again=True)
    with pytest.raises(SealtuneError) as caught:
        processes.until(lambda: False)
    assert (type(caught.value).__name__, caught.value.exit_code) == (error, code)
    assert not [e for e in seen if isinstance(e, Network)]


def test_an_end_in_good_order_before_the_work_is_over_is_none(tmp_path: Path) -> None:
    """Somebody stopped the program alone; when the work is over, its end is one."""
    over: list[bool] = []
    processes = Processes(tmp_path, lambda event: None, lambda: None, settled=True)
    code = 'print(\'{"event": "done"}\', flush=True)'
    processes.start(python("server", code), again=True, over=lambda: bool(over))
    first = processes.children["server"].process.pid
    processes.until(lambda: processes.children["server"].process.pid != first)
    over.append(True)
    assert processes.until(lambda: "server" in processes.ended and "server" in processes.done)
    processes.stop_all()


def test_an_interrupt_stops_the_waiting(processes: Processes) -> None:
    processes.inbox.put(Interrupt(signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        processes.until(lambda: False)
    assert caught.value.exit_code == 130


def test_ours_may_say_goodbye(tmp_path: Path) -> None:
    seen: list[str] = []
    processes = Processes(tmp_path, lambda event: seen.append(event.event), lambda: None)
    code = (
        "import signal, sys, time\n"
        'def leave(*_):\n    print(\'{"event": "done"}\', flush=True)\n    sys.exit(0)\n'
        "signal.signal(signal.SIGTERM, leave)\n"
        'print(\'{"event": "ready"}\', flush=True)\n'
        "time.sleep(60)"
    )
    processes.start(python("client:a", code))
    processes.until(lambda: "client:a" in processes.ready)
    processes.stop_all()
    assert seen == ["ready", "done"]


HOSTILE = "\x1b[2J\x1b]0;title\x07\u202eevil\r\n  9 s  round 3 of 3: 3 of 3 sites\x9b31m"


def test_what_others_say_cannot_steer_the_terminal(tmp_path: Path) -> None:
    inbox: Inbox = queue.SimpleQueue()
    said = {"event": "round", "round": 1, "sites": {HOSTILE: {"reason": HOSTILE}}}
    wrong = {"event": "error", "message": HOSTILE}
    log = tmp_path / "log"
    log.write_text("before\n")
    lines = f"print({json.dumps(said)!r})\nprint({json.dumps(wrong)!r})"
    child = start(f"{lines}\nimport sys; sys.exit({HOSTILE!r})", log, inbox)
    (event, error, _) = items(inbox)
    child.join(5)
    died = Death("accelerator", 1, None, log, child.tail())
    shown = [str(revive("accelerator", error)), json.dumps(event.fields())]
    shown.append(str(cause([died])))
    for text in shown:
        assert not {c for c in text if not c.isprintable()} - {"\n"}, text
        # nothing that comes from outside begins a line as the launcher's own lines do
        assert not [line for line in text.split("\n") if line.startswith("  9 s")], text
    assert r"\x1b[2J" in shown[0]


def test_the_party_that_failed_is_named_and_not_those_that_missed_it(
    processes: Processes,
) -> None:
    """The server hears of a closed connection first; what the site said of itself counts."""
    lost = {"event": "error", "code": 8, "error": "SiteLostError", "message": "connection closed"}
    own = {"event": "error", "code": 1, "error": "AssertionError",
           "message": "unforeseen AssertionError at tasks.py:7"}  # fmt: skip
    site = f"print({json.dumps(own)!r}, flush=True)\nimport time; time.sleep(60)"
    server = f"print({json.dumps(lost)!r}, flush=True)\nimport sys; sys.exit(8)"
    processes.start(python("client:a", site))
    processes.start(python("server", server))
    with pytest.raises(SealtuneError, match=r"client:a: unforeseen AssertionError at tasks\.py:7"):
        processes.until(lambda: False)
    processes.stop_all()


def test_an_accelerator_that_fails_is_named(processes: Processes) -> None:
    lost = {"event": "error", "code": 5, "error": "AcceleratorLostError", "message": "has gone"}
    site = f"print({json.dumps(lost)!r}, flush=True)\nimport sys; sys.exit(5)"
    processes.start(python("client:a", site))
    broken = "import time; time.sleep(0.2); raise MemoryError('too big')"
    processes.start(python("accelerator", broken))
    with pytest.raises(ProcessDiedError, match="accelerator ended unexpectedly") as caught:
        processes.until(lambda: False)
    assert "MemoryError: too big" in caught.value.hint
    processes.stop_all()
