"""The contract of a run: what ``job.toml`` says, checked, and the id that everyone agrees on."""

from sealtune.job.load import check_files, is_hub_data, load_job
from sealtune.job.spec import (
    DataSpec,
    Job,
    JobSpec,
    LoraSpec,
    ModelSpec,
    NetworkSpec,
    ProtectionSpec,
    SitesSpec,
    SpfSpec,
    SplitSpec,
    TrainSpec,
    TuningSpec,
)

__all__ = [
    "DataSpec",
    "Job",
    "JobSpec",
    "LoraSpec",
    "ModelSpec",
    "NetworkSpec",
    "ProtectionSpec",
    "SitesSpec",
    "SpfSpec",
    "SplitSpec",
    "TrainSpec",
    "TuningSpec",
    "check_files",
    "is_hub_data",
    "load_job",
]
