"""The settings of ``job.toml`` as typed, frozen models. Reading files is in ``job.load``.

Rules that join two sections are in ``cross_problems``, so that the loader can report them beside
the faults of single keys. Numbers are strict: ``rounds = "3"`` and ``rounds = true`` are errors.
``docs/job-file.md`` explains every key to users.

Trust domain: every process; settings only.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from sealtune.errors import Problem
from sealtune.job.template import parse_template

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
NonEmpty = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
ModuleNames = Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
BlockIndex = Annotated[int, Field(ge=0, strict=True)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JobSpec(Section):
    """``[job]``: what this run is called, how it tunes, and how long it goes on.

    ``federated-lora``: each site tunes in its own enclave, a server enclave averages. ``split``:
    the first blocks run at the sites, one large server enclave tunes the rest on all sites' data.
    """

    name: Name
    method: Literal["federated-lora", "split"] = "federated-lora"
    seed: int = Field(default=0, ge=0, lt=2**32, strict=True)
    rounds: int = Field(default=3, ge=1, le=10_000, strict=True)


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
    label: str = Field(default="label", min_length=1)
    labels: tuple[NonEmpty, ...] | None = Field(default=None, min_length=2)
    max_tokens: int = Field(default=64, ge=2, le=8192, strict=True)
    max_test_rows: int | None = Field(default=None, ge=1, strict=True)

    @field_validator("template")
    @classmethod
    def _parses(cls, value: str) -> str:
        parse_template(value)
        return value

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value if value is None else _distinct(value)


class SitesSpec(Section):
    """``[sites]``: who takes part, and how a pooled file is dealt out among them."""

    names: tuple[Name, ...] = Field(min_length=1, max_length=64)
    partition: Literal["dirichlet", "label", "file"] = "file"
    alpha: float = Field(default=0.5, gt=0, le=1000, strict=True)

    @field_validator("names")
    @classmethod
    def _names_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct(value)


class LoraSpec(Section):
    """``[tuning.lora]``: the adapter, in PEFT's words."""

    rank: int = Field(default=8, ge=1, le=1024, strict=True)
    alpha: float = Field(default=16, gt=0, strict=True)
    dropout: float = Field(default=0.0, ge=0, lt=1, strict=True)
    targets: ModuleNames | Literal["all-linear"] = ("q_proj", "k_proj", "v_proj", "o_proj")
    layers: tuple[BlockIndex, ...] | None = Field(default=None, min_length=1)


class SpfSpec(Section):
    """``[tuning.spf]``: whole attention heads, a share of each block's (``tuning/spf``)."""

    qkv: float = Field(default=0.25, ge=0, le=1, strict=True)
    dense: float = Field(default=0.25, ge=0, le=1, strict=True)
    select: Literal["l1-largest", "l1-smallest", "random", "gradient", "activation"] = "l1-largest"
    layers: tuple[BlockIndex, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _tunes_something(self) -> Self:
        if self.qkv == 0 and self.dense == 0:
            raise ValueError("qkv and dense are both 0, so nothing would be tuned")
        return self


class TuningSpec(Section):
    """``[tuning]``: what is trained: LoRA, SPF, or both.

    Left empty, it is LoRA. LoRA's keys may stand in ``[tuning]`` itself: ``[tuning] rank = 4`` is
    short for ``[tuning.lora] rank = 4``.
    """

    lora: LoraSpec | None = None
    spf: SpfSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        short = {key: values[key] for key in LoraSpec.model_fields if key in values}
        rest = {key: value for key, value in values.items() if key not in short}
        if rest.get("method") == "lora":
            del rest["method"]
            short.setdefault("rank", LoraSpec().rank)
        if short and "lora" not in rest:
            rest["lora"] = short
        elif short:
            raise ValueError("has keys of LoRA beside a table lora: move them into [tuning.lora]")
        if rest.get("lora") is None and rest.get("spf") is None:
            rest["lora"] = {}
        return rest


class ProtectionSpec(Section):
    """``[protection]``: what the accelerator may see.

    ``adapter+data``: nothing but ring-masked codes. ``adapter``: it may see the owner's data (the
    accelerator is the owner's own machine); blocks below the first adapter run there in the plain.
    ``insecure-none``: codes without masks, for comparison only.

    ``integrity_bits``: a lying accelerator is missed with probability at most 2^-bits per step.
    """

    protect: Literal["adapter+data", "adapter", "insecure-none"] = "adapter+data"
    integrity_bits: int = Field(default=40, ge=1, le=128, strict=True)
    attestation: Literal["simulated"] = "simulated"


class TrainSpec(Section):
    """``[train]``: optimisation; in a federated job, between two aggregations.

    ``steps_per_round = "epoch"`` is one pass over the examples in each round.
    """

    steps_per_round: Annotated[int, Field(ge=1, strict=True)] | Literal["epoch"] = "epoch"
    batch_size: int = Field(default=16, ge=1, strict=True)
    learning_rate: float = Field(default=1e-3, gt=0, le=1, strict=True)
    weight_decay: float = Field(default=0.0, ge=0, strict=True)
    eval_batch_size: int = Field(default=32, ge=1, strict=True)

    @model_validator(mode="after")
    def _decays(self) -> Self:
        if self.learning_rate * self.weight_decay > 1:
            raise ValueError("learning_rate times weight_decay is above 1: no step may pass 0")
        return self

    def steps(self, examples: int) -> int:
        """Optimizer steps of one round on so many examples."""
        if isinstance(self.steps_per_round, int):
            return self.steps_per_round
        return max(1, examples // self.batch_size)


class SplitSpec(Section):
    """``[split]``: where a split job cuts the model, and how the server enclave computes.

    ``cut`` is the number of blocks that run at the sites, or the share of all blocks.
    ``activations`` is how cut activations travel and are kept. ``compute`` is the type of the
    server's frozen weights; ``checkpointing`` recomputes activations in the backward pass.
    """

    cut: Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, lt=1, strict=True)]
    activations: Literal["bf16", "int8", "fp32"] = "bf16"
    compute: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = Field(default=False, strict=True)


class EquipmentSpec(Section):
    """``[equipment]``: what there is to compute with. For ``sealtune advise`` only; nothing else
    reads it and no manifest holds it.

    Speeds and memory that are left out are probed on the machine that asks. ``*_tflops`` are
    10^12 fp32 operations a second that matrix products really reach, ``accelerator_tops`` the same
    for int8.
    """

    client_tee: bool = Field(default=True, strict=True)
    client_tee_memory_gib: float | None = Field(default=None, gt=0, strict=True)
    client_tee_tflops: float | None = Field(default=None, gt=0, strict=True)
    accelerator_tops: float | None = Field(default=None, gt=0, strict=True)
    accelerator_gbit: float | None = Field(default=None, gt=0, strict=True)
    owner_memory_gib: float | None = Field(default=None, gt=0, strict=True)
    owner_tflops: float | None = Field(default=None, gt=0, strict=True)
    server_tee_memory_gib: float | None = Field(default=None, gt=0, strict=True)
    server_tee_tflops: float | None = Field(default=None, gt=0, strict=True)
    uplink_mbit: float = Field(default=100.0, gt=0, strict=True)
    downlink_mbit: float = Field(default=100.0, gt=0, strict=True)
    one_machine: bool = Field(default=False, strict=True)
    client_tee_cost: float = Field(default=0.0, ge=0, strict=True)
    accelerator_cost: float = Field(default=0.0, ge=0, strict=True)
    server_tee_cost: float = Field(default=0.0, ge=0, strict=True)
    max_hours: float | None = Field(default=None, gt=0, strict=True)


class NetworkSpec(Section):
    """``[network]``: patience and quorum.

    ``min_sites`` is how many updates a round needs (default: all sites); ``deadline`` is how many
    seconds a site may take for one message.
    """

    min_sites: int | None = Field(default=None, ge=1, strict=True)
    deadline: float = Field(default=1800.0, gt=0, strict=True)


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
    split: SplitSpec | None = None
    equipment: EquipmentSpec = EquipmentSpec()

    @property
    def quorum(self) -> int:
        """Number of updates that a round needs."""
        return self.network.min_sites or len(self.sites.names)

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        problems = cross_problems(
            self.model, self.data, self.sites, self.network
        ) + method_problems(self.job, self.tuning, self.split)
        if problems:
            raise ValidationError.from_exception_data("Job", [_as_detail(p) for p in problems])
        return self


def cross_problems(
    model: ModelSpec | None,
    data: DataSpec | None,
    sites: SitesSpec | None,
    network: NetworkSpec | None,
) -> list[Problem]:
    """Faults between sections, each with its key; a section that is itself faulty is None."""
    problems: list[Problem] = []
    if data and sites:
        problems += _files_and_sites("data.train", data.train, sites)
        problems += _files_and_sites("data.test", data.test, sites)
    if network and sites and (network.min_sites or 0) > len(sites.names):
        problems.append(
            Problem(
                "network.min_sites",
                f"is {network.min_sites}, but sites.names has only {len(sites.names)}",
            )
        )
    if model and data and model.task == "label-words" and data.template.rstrip() != data.template:
        problems.append(
            Problem(
                "data.template",
                "ends in white space, which would keep the model from writing a label word "
                "(its tokens start with a space): remove it",
            )
        )
    return problems


def method_problems(
    job: JobSpec | None, tuning: TuningSpec | None, split: SplitSpec | None
) -> list[Problem]:
    """Faults between the method and the sections that only one of the methods has."""
    if job is None or tuning is None:
        return []
    problems: list[Problem] = []
    if job.method == "split" and split is None:
        problems.append(
            Problem("split.cut", 'is missing: job.method = "split" needs the section [split]')
        )
    if job.method != "split" and split is not None:
        problems.append(
            Problem("job.method", f'is "{job.method}", but there is a section [split]; set "split"')
        )
    if job.method != "split" and tuning.spf is not None:
        problems.append(
            Problem("tuning.spf", 'needs job.method = "split": it runs in a large server enclave')
        )
    return problems


def _files_and_sites(key: str, files: Path | dict[str, Path], sites: SitesSpec) -> list[Problem]:
    if not isinstance(files, dict):
        if sites.partition != "file":
            return []
        return [
            Problem(
                key,
                "is one pooled file: set sites.partition to 'dirichlet' or 'label', or give a "
                "table with one file for each site",
            )
        ]
    problems = []
    if sites.partition != "file":
        problems.append(
            Problem(key, "is a table of site = file, so sites.partition must be 'file'")
        )
    for name in sites.names:
        if name not in files:
            problems.append(Problem(f"{key}.{name}", "is missing: every site needs a file"))
    for name in files:
        if name not in sites.names:
            near = difflib.get_close_matches(name, sites.names, n=1)
            advice = f"did you mean '{near[0]}'?" if near else "add it to sites.names or remove it"
            problems.append(Problem(f"{key}.{name}", f"is not one of sites.names; {advice}"))
    return problems


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"names {', '.join(map(repr, twice))} more than once")
    return values


def _as_detail(problem: Problem) -> InitErrorDetails:
    fault = PydanticCustomError("rule", "{message}", {"message": problem.message})
    return InitErrorDetails(type=fault, loc=tuple(problem.key.split(".")), input=None)
