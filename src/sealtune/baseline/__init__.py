"""Plain PEFT runs of the same job, for comparison: one process, float32, no enclave, no mask.

Trust domain: none; a baseline protects nothing and is for data that may lie in one place.
"""

from sealtune.baseline.run import KINDS, Kind, run

__all__ = ["KINDS", "Kind", "run"]
