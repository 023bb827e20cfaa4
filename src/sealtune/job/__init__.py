"""The contract of a run: what ``job.toml`` says, checked, and the id that everyone agrees on."""

from sealtune.job.load import check_files, is_hub_data, load_job
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
    "check_files",
    "is_hub_data",
    "load_job",
]
