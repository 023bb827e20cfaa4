"""``python -m sealtune.pad_accelerator CONFIG.json``: the pad accelerator of some sites of a job.

Its file says where to listen, whom it serves, where its private key is, and of the slice plan what
it multiplies with (``launch.parties``).

Trust domain: pad accelerator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.serving import device_of, run
from sealtune.channel.hpke import KeyPair
from sealtune.pad_accelerator.server import Server


def _server(config: dict[str, Any]) -> Server:
    return Server(
        Engine(Path(config["backbone"]), config["groups"], device=device_of(config)),
        config["listen"],
        key=KeyPair.from_private(bytes.fromhex(Path(config["key"]).read_text())),
        job_id=bytes.fromhex(config["job"]),
        sites=config["sites"],
    )


if __name__ == "__main__":
    run(_server)
