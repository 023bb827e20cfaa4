"""``metrics.jsonl``: every event of a run, one JSON object a line.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path

from sealtune.errors import StorageError
from sealtune.job.events import Event


def storage_error(path: Path, error: OSError) -> StorageError:
    """What to tell the user about a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk is full: could not write {path}",
            hint="free some space, then continue with --resume",
        )
    return StorageError(f"could not write {path}: {error.strerror or error}")


def lock(descriptor: int, path: Path) -> None:
    """Hold the file as long as it is open, for one run at a time.

    Raises:
        StorageError: a run that is going on holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StorageError(
            f"a run is going on in {path.parent}",
            hint="wait for its end, or stop it with Ctrl-C in its terminal",
        ) from error


class MetricsLog:
    """Appends events with the time; one run at a time has it.

    Args:
        path: the file; made if it is not there.

    Raises:
        StorageError: it cannot be written, here or later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            lock(self._descriptor, path)
        except StorageError:
            os.close(self._descriptor)
            raise

    def append(self, event: Event) -> Event:
        """Write one event and return it with its time."""
        stamped = event.model_copy(update={"time": round(time.time(), 3)})
        line = json.dumps(stamped.fields(), separators=(",", ":")).encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):  # the disk filled up within this line: say so
                os.write(self._descriptor, line[written:])
        except OSError as error:
            raise storage_error(self._path, error) from error
        return stamped

    def close(self) -> None:
        """Make the file durable.

        Raises:
            StorageError: the system could not.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error(self._path, error) from error
        finally:
            os.close(self._descriptor)
