"""``python -m sealtune.accelerator CONFIG.json``: the accelerator process of a run.

Its file says where to listen, and of the slice plan what it computes (``launch.parties``).

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.prefix import PlainBlocks
from sealtune.accelerator.server import Server
from sealtune.errors import SealtuneError
from sealtune.memory import peak_mib

_REPORT_EVERY = 5.0  # seconds


def _emit(**event: object) -> None:
    print(json.dumps(event), flush=True)


def _engine(config: dict[str, Any]) -> Engine:
    backbone, blocks = Path(config["backbone"]), config["prefix_blocks"]
    prefix = None
    if blocks:
        model = config["model"]
        prefix = PlainBlocks(model["path"], model["revision"], blocks, backbone)
    device = config["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    return Engine(backbone, config["groups"], prefix=prefix, device=device)


def _report(server: Server) -> None:
    _emit(
        event="offload",
        calls=server.engine.calls,
        bytes_in=server.bytes_in,
        bytes_out=server.bytes_out,
        busy_seconds=round(server.engine.busy_seconds, 3),
    )


def main() -> int:
    """Serve until SIGTERM."""
    config = json.loads(Path(sys.argv[1]).read_text())
    stop = threading.Event()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        server = Server(_engine(config), config["listen"])
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


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a connection may be inside a product; its thread cannot be joined
