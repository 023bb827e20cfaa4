"""The settings of ``job.toml`` as typed, frozen models. Reading files is in ``job.load``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JobSpec(Section):
    """``[job]``: what this run is called and how long it goes on."""

    name: Name
    seed: int = Field(default=0, ge=0, lt=2**32)
    rounds: int = Field(default=3, ge=1, le=10_000)


class ModelSpec(Section):
    """``[model]``: the public backbone and the task it learns.

    ``path`` is a folder with a Hugging Face model, or a hub id. Tasks: ``classification`` puts a
    trained head on the last token; ``label-words`` compares the logits of the labels' first tokens;
    ``causal-lm`` continues text.
    """

    path: str = Field(min_length=1)
    revision: str | None = None
    task: Literal["classification", "label-words", "causal-lm"] = "classification"


class DataSpec(Section):
    """``[data]``: files, columns and the prompt template.

    ``train`` and ``test`` are one pooled file each (then ``[sites] partition`` deals it out), or a
    table ``site name = file``. ``template`` names columns in braces. ``labels`` fixes the classes
    and their order; left out, they are the sorted labels of the training files.
    """

    train: Path | dict[str, Path]
    test: Path | dict[str, Path]
    template: str = "{text}"
    label: str = "label"
    labels: tuple[str, ...] | None = None
    max_tokens: int = Field(default=64, ge=2, le=8192)
    max_test_rows: int | None = Field(default=None, ge=1)


class SitesSpec(Section):
    """``[sites]``: who takes part, and how a pooled file is dealt out among them."""

    names: tuple[Name, ...] = Field(min_length=1, max_length=64)
    partition: Literal["dirichlet", "label", "file"] = "file"
    alpha: float = Field(default=0.5, gt=0, le=1000)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.names)) != len(self.names):
            raise ValueError("site names must differ from each other")
        return self


class TuningSpec(Section):
    """``[tuning]``: the adapter, in PEFT's words."""

    method: Literal["lora"] = "lora"
    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "k_proj", "v_proj", "o_proj")
    layers: tuple[int, ...] | None = None


class ProtectionSpec(Section):
    """``[protection]``: what the accelerator may see.

    ``adapter+data``: nothing but ring-masked codes. ``adapter``: it may see the owner's data (the
    accelerator is the owner's own machine); blocks below the first adapter run there in the plain.
    ``insecure-none``: codes without masks, for comparison only.

    ``integrity_bits``: a lying accelerator is missed with probability at most 2^-bits per step.
    """

    protect: Literal["adapter+data", "adapter", "insecure-none"] = "adapter+data"
    integrity_bits: int = Field(default=40, ge=1, le=128)
    attestation: Literal["simulated"] = "simulated"


class TrainSpec(Section):
    """``[train]``: local optimisation between two aggregations."""

    steps_per_round: int = Field(default=10, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    eval_batch_size: int = Field(default=32, ge=1)


class NetworkSpec(Section):
    """``[network]``: patience and quorum.

    ``min_sites`` is how many updates a round needs (default: all sites); ``deadline`` is how many
    seconds a site may take for one message.
    """

    min_sites: int | None = Field(default=None, ge=1)
    deadline: float = Field(default=1800.0, gt=0)


class Job(Section):
    """A whole ``job.toml``."""

    job: JobSpec
    model: ModelSpec
    data: DataSpec
    sites: SitesSpec
    tuning: TuningSpec = TuningSpec()
    protection: ProtectionSpec = ProtectionSpec()
    train: TrainSpec = TrainSpec()
    network: NetworkSpec = NetworkSpec()

    @property
    def quorum(self) -> int:
        """Number of updates that a round needs."""
        return self.network.min_sites or len(self.sites.names)

    @model_validator(mode="after")
    def _files_match_sites(self) -> Self:
        for key, files in (("train", self.data.train), ("test", self.data.test)):
            if isinstance(files, dict):
                if set(files) != set(self.sites.names):
                    raise ValueError(f"data.{key} must name one file for each of sites.names")
                if self.sites.partition != "file":
                    raise ValueError(f"data.{key} is a table, so sites.partition must be 'file'")
            elif self.sites.partition == "file":
                raise ValueError(
                    f"data.{key} is one pooled file: set sites.partition to 'dirichlet' or "
                    "'label', or give one file for each site"
                )
        if self.quorum > len(self.sites.names):
            raise ValueError("network.min_sites is larger than the number of sites")
        return self
