"""A job's settings without places: what all participants can agree on, whatever their paths.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from sealtune.errors import ConfigError, Problem
from sealtune.job.spec import (
    Job,
    JobSpec,
    NetworkSpec,
    ProtectionSpec,
    Section,
    SitesSpec,
    SplitSpec,
    TrainSpec,
    TuningSpec,
)

# Keys of [model] and [data] that a manifest states otherwise: by digests, and by its labels.
ELSEWHERE = {"model": ("path", "revision"), "data": ("train", "test", "labels")}

UNSIGNED = ("equipment",)  # sections that no run reads: for `sealtune advise`


class ModelSettings(Section):
    """``[model]`` without its place."""

    task: Literal["classification", "label-words", "causal-lm"]


class DataSettings(Section):
    """``[data]`` without files and labels."""

    template: str = Field(max_length=100_000)
    label: str = Field(max_length=1000)
    max_tokens: int
    max_test_rows: int | None


class Settings(Section):
    """All sections of a job that a run reads."""

    job: JobSpec
    model: ModelSettings
    data: DataSettings
    sites: SitesSpec
    tuning: TuningSpec
    protection: ProtectionSpec
    train: TrainSpec
    network: NetworkSpec
    split: SplitSpec | None

    @classmethod
    def of(cls, job: Job) -> Settings:
        """The settings of ``job``.

        Raises:
            ConfigError: a value that a manifest cannot hold, such as a template of megabytes.
        """
        values: dict[str, Any] = job.model_dump(mode="json", exclude=set(UNSIGNED))
        for section, keys in ELSEWHERE.items():
            for key in keys:
                del values[section][key]
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)
            problems = [Problem(".".join(map(str, one["loc"])), one["msg"]) for one in faults]
            raise ConfigError("the job", problems) from error

    def job_at(
        self,
        *,
        model: str = "-",
        revision: str | None = None,
        train: Path | dict[str, Path] | None = None,
        test: Path | dict[str, Path] | None = None,
    ) -> Job:
        """The job with these settings whose model and data lie at these places.

        Whoever has no data, or one site's alone, names no file of the others.

        Raises:
            ValueError: the settings are not those of a job; the message says why.
        """
        values = self.model_dump()
        values["model"] |= {"path": model, "revision": revision}
        of_sites = self.sites.partition == "file"
        files = dict.fromkeys(self.sites.names, Path("-")) if of_sites else Path("-")
        values["data"] |= {"train": files, "test": files}
        try:
            job = Job.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        nothing: Path | dict[str, Path] = {} if of_sites else Path("-")
        places = {
            "train": nothing if train is None else train,
            "test": nothing if test is None else test,
        }
        return job.model_copy(update={"data": job.data.model_copy(update=places)})

    @property
    def quorum(self) -> int:
        """Number of updates that a round needs."""
        return self.network.min_sites or len(self.sites.names)

    def differences(self, other: Settings) -> list[str]:
        """Dotted keys whose values differ, such as ``train.learning_rate``."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        wrong = []
        for section, values in mine.items():
            if values is None or theirs[section] is None:
                wrong += [section] if values != theirs[section] else []
            else:
                wrong += [f"{section}.{k}" for k in values if values[k] != theirs[section][k]]
        return wrong
