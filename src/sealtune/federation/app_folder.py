"""The folder that Flower packs and ships: a ``pyproject.toml`` and not one line of code.

Its two components are named by import path, and sealtune is installed (or on PYTHONPATH) where
they run. So what travels through Flower is configuration only, and nothing of it is executed.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import json
from pathlib import Path

_TEMPLATE = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "sealtune-glue"
version = "1.0.0"
description = "Moves sealed frames between enclaves"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "sealtune"
fab-include = ["README.md"]

[tool.flwr.app.components]
serverapp = "sealtune.federation.server_app:app"
clientapp = "sealtune.federation.client_app:app"

[tool.flwr.app.config]
socket = {socket}
events = {events}
"""


def write(folder: Path, socket: Path, events: Path | None) -> Path:
    """Make the app folder.

    Args:
        folder: where; created.
        socket: the aggregator's Unix socket.
        events: the launcher's datagram socket, if it listens.

    Returns:
        ``folder``.
    """
    folder.mkdir(parents=True)
    # JSON strings are TOML strings.
    text = _TEMPLATE.format(
        socket=json.dumps(str(socket)), events=json.dumps("" if events is None else str(events))
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text("Made by `sealtune run`.\n", encoding="utf-8")
    return folder
