"""The contract of a run: what ``job.toml`` says, checked, and the id that everyone agrees on."""

from sealtune.job.spec import (
    DataSpec,
    Job,
    JobSpec,
    ModelSpec,
    NetworkSpec,
    ProtectionSpec,
    SitesSpec,
    TrainSpec,
    TuningSpec,
)

__all__ = [
    "DataSpec",
    "Job",
    "JobSpec",
    "ModelSpec",
    "NetworkSpec",
    "ProtectionSpec",
    "SitesSpec",
    "TrainSpec",
    "TuningSpec",
]
