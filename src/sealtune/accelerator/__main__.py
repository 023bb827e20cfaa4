"""``python -m sealtune.accelerator CONFIG.json``: the accelerator process of a run.

Its file says where to listen, and of the slice plan what it computes (``launch.parties``).

Trust domain: accelerator (untrusted).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.server import Server
from sealtune.accelerator.serving import device_of, run


def _server(config: dict[str, Any]) -> Server:
    backbone, blocks = Path(config["backbone"]), config["prefix_blocks"]
    prefix = None
    if blocks:
        from sealtune.accelerator.prefix import PlainBlocks

        model = config["model"]
        prefix = PlainBlocks(model["path"], model["revision"], blocks, backbone)
    engine = Engine(backbone, config["groups"], prefix=prefix, device=device_of(config))
    folder = config.get("untrusted_shm")
    return Server(engine, config["listen"], untrusted_shm=Path(folder) if folder else None)


if __name__ == "__main__":
    run(_server)
