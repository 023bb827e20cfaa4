"""Starts, watches and stops all processes of a run on one machine.

Trust domain: operator (untrusted).
"""

from sealtune.launch.adapter import collect_adapter
from sealtune.launch.folder import MANIFEST, check, prepare
from sealtune.launch.parties import line_up, party_file, write_party
from sealtune.launch.ports import check_port
from sealtune.launch.processes import Interrupted
from sealtune.launch.supervise import run

__all__ = [
    "MANIFEST",
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
