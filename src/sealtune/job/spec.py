"""A whole job with its places: read from ``job.toml``, or made of a manifest and a local file.

    job = placed(manifest.settings, model="/models/a")

Trust domain: every process that holds a model or data; settings only.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, field_validator

from sealtune.errors import MalformedManifestError
from sealtune.job.printable import printable
from sealtune.job.sections import NonEmpty, Section, distinct, faults
from sealtune.job.settings import DataSettings, ModelSettings, Settings
from sealtune.job.template import parse_template


class _ModelPlace(Section):
    path: str = Field(min_length=1, examples=["./demo/model"])
    """Folder with a Hugging Face model (it is there, or starts with `.`, `/`, `~`); or a hub id."""
    revision: str | None = Field(default=None, examples=["main"])
    """Branch, tag or commit of a hub id; without it, the hub's default branch."""


class ModelSpec(ModelSettings, _ModelPlace):
    """``[model]``: the public backbone and the task it learns."""


class _DataFiles(Section):
    train: Path | dict[str, Path] = Field(
        examples=["demo/data/icd10/train.jsonl", {"north": "a.csv", "south": "b.csv"}]
    )
    """Training rows: one pooled file, or one for each site (`.jsonl`, `.csv`, `.tsv`, `.parquet`,
    `hf:owner/name:split`, `hf:owner/name:configuration:split`)."""
    test: Path | dict[str, Path] = Field(examples=["demo/data/icd10/test.jsonl"])
    """Test rows; a table exactly if `train` is one."""
    labels: tuple[NonEmpty, ...] | None = Field(
        default=None, min_length=2, examples=[["no", "yes"]]
    )
    """The classes and their order; without it, the sorted labels of the training files."""

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value if value is None else distinct(value)


class DataSpec(DataSettings, _DataFiles):
    """``[data]``: files, columns and the prompt template."""

    @field_validator("template")
    @classmethod
    def _parses(cls, value: str) -> str:
        parse_template(value)
        return value


class Job(Settings):
    """The settings of a job, and where its model and data lie."""

    model: ModelSpec
    data: DataSpec

    @property
    def settings(self) -> Settings:
        """The same without places."""
        sections = dict.fromkeys(Settings.model_fields, True)
        own = {
            "model": set(ModelSettings.model_fields),
            "data": set(DataSettings.model_fields),
        }
        return Settings.model_validate(self.model_dump(include={**sections, **own}))


def placed(
    settings: Settings,
    *,
    model: str = "-",
    revision: str | None = None,
    train: Path | dict[str, Path] = Path("-"),
    test: Path | dict[str, Path] = Path("-"),
) -> Job:
    """The job with these settings whose model and data lie at these places.

    Whoever has no data, or one site's alone, names no file of the others.

    Raises:
        MalformedManifestError: the prompt template is none; settings without places hold any text.
    """
    sections = {name: getattr(settings, name) for name in Settings.model_fields}
    sections["model"] = ModelSpec(**settings.model.model_dump(), path=model, revision=revision)
    try:
        sections["data"] = DataSpec(**settings.data.model_dump(), train=train, test=test)
    except ValidationError as error:
        fault = faults(error)[0]
        raise MalformedManifestError(
            f"the job manifest at settings.data.{fault.key}: {printable(fault.message)}"
        ) from error
    return Job(**sections)
