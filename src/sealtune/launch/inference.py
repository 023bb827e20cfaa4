"""The server enclave of a finished split job, started to answer one site's questions.

Trust domain: operator (untrusted); sealed bytes pass through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from sealtune.errors import ProcessDiedError
from sealtune.federation.enclave_link import Outcome, ServerEnclave, connect
from sealtune.job.events import Error, Ready
from sealtune.job.local import Local
from sealtune.job.local_file import anchored
from sealtune.job.scratch import scratch_folder
from sealtune.launch import environment
from sealtune.launch.child import Child, Exit, Failure, Inbox
from sealtune.launch.failure import revive
from sealtune.launch.parties import command

_END = 20.0  # seconds that the enclave gets to end by itself


def ask_enclave(server: Local, deliver: Callable[[bytes], bytes]) -> None:
    """Start the enclave, carry messages between it and the site until it is done, end it.

    Args:
        server: the enclave's local file: the run's folder, with its sealed state, and who asks.
        deliver: hands a message to the site and returns its answer.

    Raises:
        ProcessDiedError: the enclave ended unexpectedly.
        SealtuneError: what the enclave said that went wrong.
    """
    with scratch_folder() as folder:
        server = anchored(server, folder)
        started = command(server, folder / "server.json")
        with (
            _enclave(started, server.folder / "logs" / "answers.log"),
            ServerEnclave(connect(server.listen)) as enclave,
        ):
            while (order := enclave.next()) is not None:
                for asked, body in order.to.items():
                    enclave.report(Outcome(asked, deliver(body), "", 1, 0.0, len(body)))


@contextmanager
def _enclave(started: Sequence[str], log: Path) -> Iterator[None]:
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = environment.variables({"OMP_WAIT_POLICY": "PASSIVE"})
    inbox: Inbox = SimpleQueue()
    child = Child.start("server", started, variables, log, inbox)
    try:
        _until_ready(inbox, log)
        yield
        child.join(_END)
    finally:
        child.kill()
        child.join(_END)


def _until_ready(inbox: Inbox, log: Path) -> None:
    """Wait until the enclave listens."""
    while not isinstance(item := inbox.get(), Exit):
        if isinstance(item, Failure):
            raise item.error
        if isinstance(item, Ready):
            return
        if isinstance(item, Error):
            raise revive("server", item)
    raise ProcessDiedError(
        f"the server enclave ended with exit code {item.code}", hint=f"its log is {log}"
    )
