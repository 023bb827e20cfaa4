"""The life of a program that multiplies for others: started with a file, ended by a signal.

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from sealtune.accelerator.listener import Listener
from sealtune.errors import SealtuneError
from sealtune.memory import peak_mib

_REPORT_EVERY = 5.0  # seconds


def device_of(config: dict[str, Any]) -> str:
    """Where a program's file has it compute; where that is left open, on CUDA, if it can."""
    return str(config["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))


def run(make: Callable[[dict[str, Any]], Listener]) -> NoReturn:
    """Serve, and end the process: see ``serve``."""
    code = serve(make)
    sys.stdout.flush()
    os._exit(code)  # a connection may be inside a product; its thread cannot be joined


def serve(make: Callable[[dict[str, Any]], Listener]) -> int:
    """Serve until SIGTERM; returns the exit code.

    Args:
        make: of what the program's file says.
    """
    config = json.loads(Path(sys.argv[1]).read_text())
    stop = threading.Event()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        server = make(config)
    except SealtuneError as error:
        what = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        _emit(event="error", code=error.exit_code, **what)
        return error.exit_code
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _emit(event="ready", arithmetic=server.engine.arithmetic)
    reported = 0
    while not stop.wait(_REPORT_EVERY):
        if server.engine.calls != reported:  # it serves for days after its last job
            reported = server.engine.calls
            _report(server)
    server.close()
    _report(server)
    _emit(event="memory", peak_mib=peak_mib())
    _emit(event="done")
    return 0


def _report(server: Listener) -> None:
    _emit(
        event="offload",
        calls=server.engine.calls,
        bytes_in=server.bytes_in,
        bytes_out=server.bytes_out,
        busy_seconds=round(server.engine.busy_seconds, 3),
    )


def _emit(**event: object) -> None:
    print(json.dumps(event), flush=True)
