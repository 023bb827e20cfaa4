"""``python -m sealtune.pad_accelerator CONFIG.json``: the pad accelerator of some sites of a job.

Its file says where to listen, whom it serves, where its private key is, and of the slice plan what
it multiplies with (``launch.parties``).

Trust domain: pad accelerator.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.serving import serve
from sealtune.channel.hpke import KeyPair
from sealtune.pad_accelerator.server import Server


def _server(config: dict[str, Any]) -> Server:
    device = config["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    return Server(
        Engine(Path(config["backbone"]), config["groups"], device=device),
        config["listen"],
        key=KeyPair.from_private(bytes.fromhex(Path(config["key"]).read_text())),
        job_id=bytes.fromhex(config["job"]),
        sites=config["sites"],
    )


if __name__ == "__main__":
    code = serve(_server)
    sys.stdout.flush()
    os._exit(code)  # a connection may be inside a product; its thread cannot be joined
