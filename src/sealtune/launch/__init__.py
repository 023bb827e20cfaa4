"""Starts, watches and stops all processes of a run on one machine.

Trust domain: operator (untrusted).
"""

from sealtune.launch.folder import check, prepare
from sealtune.launch.job_facts import JobFacts
from sealtune.launch.ports import check_port
from sealtune.launch.processes import Interrupted
from sealtune.launch.released import collect_adapter
from sealtune.launch.supervise import Programs, run

__all__ = [
    "Interrupted",
    "JobFacts",
    "Programs",
    "check",
    "check_port",
    "collect_adapter",
    "prepare",
    "run",
]
