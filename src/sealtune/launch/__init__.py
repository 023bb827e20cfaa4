"""Starts, watches and stops all processes of a run on one machine.

Trust domain: operator (untrusted).
"""

from sealtune.launch.folder import prepare
from sealtune.launch.job_facts import JobFacts
from sealtune.launch.processes import Interrupted
from sealtune.launch.supervise import Programs, run

__all__ = ["Interrupted", "JobFacts", "Programs", "prepare", "run"]
