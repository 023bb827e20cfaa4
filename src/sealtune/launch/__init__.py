"""Starts, watches and stops all processes of a run on one machine.

Names are loaded when they are asked for: whoever wants a child's environment alone needs no
terminal.

Trust domain: operator (untrusted).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sealtune.launch.adapter import collect_adapter
    from sealtune.launch.folder import MANIFEST, check, prepare
    from sealtune.launch.parties import PAD_KEY, line_up, party_file, write_party
    from sealtune.launch.ports import check_port
    from sealtune.launch.processes import Interrupted
    from sealtune.launch.supervise import run

__all__ = [
    "MANIFEST",
    "PAD_KEY",
    "Interrupted",
    "check",
    "check_port",
    "collect_adapter",
    "line_up",
    "party_file",
    "prepare",
    "run",
    "write_party",
]
_MODULES = {
    "adapter": ("collect_adapter",),
    "folder": ("MANIFEST", "check", "prepare"),
    "parties": ("PAD_KEY", "line_up", "party_file", "write_party"),
    "ports": ("check_port",),
    "processes": ("Interrupted",),
    "supervise": ("run",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"sealtune.launch.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
