"""Boot an image for one party: hand in its files, pass its events on, end as its program ended.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from sealtune.errors import ProcessDiedError
from sealtune.images.bridge import bridge
from sealtune.images.handed import DIALLED, fitting, hand_in
from sealtune.images.image import Image
from sealtune.images.machine import (
    acceleration,
    default_memory,
    find_qemu,
    qemu_command,
)
from sealtune.job.local import Local
from sealtune.job.scratch import scratch_folder
from sealtune.launch.child import tied
from sealtune.launch.ports import HOST, free_port

_EXIT = re.compile(rb"exit ([0-9]{1,3})")
_GRACE = 30.0  # seconds that the program gets to end when it is asked
_CONSOLE = Path("/dev/stderr")


def boot(
    image: Image,
    local: Local,
    *,
    memory: int | None = None,
    processors: int | None = None,
    accel: str | None = None,
    console: Path = _CONSOLE,
    more: Sequence[str] = (),
) -> int:
    """Run a party's program in a virtual machine until it ends; its events go to stdout.

    SIGTERM and Ctrl-C ask the program to end.

    Args:
        local: the party's own file; who talks to ``local.listen`` talks to the program.
        memory: MiB; default: by the program, its image and its model.
        processors: how many; default: two, or as many as there are.
        accel: ``kvm`` or ``tcg`` (software); default: ``kvm`` if it works here.
        console: gets what the kernel and the program print.
        more: QEMU's options besides, such as a TEE's; they come last.

    Returns:
        the program's exit code.

    Raises:
        ConfigError, DigestMismatchError: the image is not for this party of this job.
        FederationError: QEMU is missing; ProcessDiedError: it ended before the program did.
        StorageError: a file or socket cannot be made.
    """
    find_qemu()
    manifest = fitting(image, local)
    model = Path(local.model.path) if local.model else None
    port = free_port()
    with scratch_folder() as temp, bridge(local.listen, f"tcp:{HOST}:{port}"):
        shares = hand_in(local, manifest, temp / "in")
        command = qemu_command(
            image,
            accel or acceleration(image),
            memory or default_memory(image, model),
            processors or min(2, os.cpu_count() or 1),
            port,
            shares,
            console,
            {name: getattr(local, name) for name in DIALLED},
            more,
        )
        code = _run(command)
    if code is None:
        raise ProcessDiedError(
            f"the machine of the {local.name} ended before its program did",
            hint="its last words are on the console; does it want more --memory?",
        )
    return code


def _run(command: list[str]) -> int | None:
    """Run QEMU; returns the program's exit code, as the machine told it, or None.

    QEMU is in a session of its own: a signal for this process and its group would end it at once.
    """
    process = subprocess.Popen(
        tied(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    code = None
    with process, _stopping(process) as asked:
        for line in process.stdout:
            if found := _EXIT.fullmatch(line.strip()):
                code = int(found[1])
            elif line.strip():
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
    if code is None and asked.is_set():
        return 128 + signal.SIGTERM  # before the program could hear it
    return code


@contextlib.contextmanager
def _stopping(process: subprocess.Popen[bytes]) -> Iterator[threading.Event]:
    """Turn the signals that ask for an end into the line that asks the program.

    Yields:
        set when one has come.
    """
    asked = threading.Event()
    killer = threading.Timer(_GRACE, process.kill)
    killer.daemon = True

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if asked.is_set():  # asked twice: at once
            process.kill()
            return
        asked.set()
        killer.start()
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            os.write(process.stdin.fileno(), b"stop\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    except BaseException:
        process.kill()
        raise
    finally:
        killer.cancel()
        for number, action in before.items():
            signal.signal(number, action)
