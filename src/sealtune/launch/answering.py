"""The server enclave of a finished split job, started to answer one site's questions.

Trust domain: operator (untrusted); sealed bytes pass through here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sealtune.errors import ProcessDiedError
from sealtune.federation.enclave_link import ServerEnclave
from sealtune.federation.transport import Outcome
from sealtune.launch import environment
from sealtune.launch.child import parse_event
from sealtune.launch.failure import revive

_END = 20.0  # seconds that the enclave gets to end by itself


def ask_enclave(
    resolved: Path, run_dir: Path, site: str, deliver: Callable[[bytes], bytes]
) -> None:
    """Start the enclave, carry messages between it and the site until it is done, end it.

    Args:
        resolved: ``job.resolved.json``.
        run_dir: the run's folder, with its sealed state.
        site: who asks.
        deliver: hands a message to the site and returns its answer.

    Raises:
        ProcessDiedError: the enclave ended unexpectedly.
        SealtuneError: what the enclave said that went wrong.
    """
    with tempfile.TemporaryDirectory(prefix="sealtune-") as name:
        folder = Path(name)
        config = folder / "server.json"
        content = {
            "role": "server",
            "job": str(resolved.resolve()),
            "socket": str(folder / "server.sock"),
            "run_dir": str(run_dir.resolve()),
            "serve": site,
        }
        config.write_text(json.dumps(content), encoding="utf-8")
        with (
            _enclave(config, run_dir / "logs" / "answers.log"),
            ServerEnclave(folder / "server.sock") as enclave,
        ):
            while (order := enclave.next()) is not None:
                for asked, body in order[0].items():
                    enclave.report(Outcome(asked, deliver(body), "", 1, 0.0, len(body)))


@contextmanager
def _enclave(config: Path, log: Path) -> Iterator[None]:
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sealtune.enclave.split_trainer", str(config)]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            env=environment.variables({"OMP_WAIT_POLICY": "PASSIVE"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
        )
    try:
        _until_ready(process, log)
        yield
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    """Read events until the enclave listens."""
    if process.stdout is None:
        return
    for line in process.stdout:
        event = parse_event(line) or {}
        if event.get("event") == "ready":
            return
        if event.get("event") == "error":
            raise revive("server", event)
    raise ProcessDiedError(
        f"the server enclave ended with exit code {process.wait()}", hint=f"its log is {log}"
    )
