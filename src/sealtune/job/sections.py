"""The sections of ``job.toml`` that name no place, as typed, frozen models.

Numbers are strict: ``rounds = "3"`` and ``rounds = true`` are errors. The text below a key is the
only one: the file that ``sealtune init`` writes and the tables of ``docs/job-file.md`` follow from
it, as what is said of a wrong value follows from the types.

Trust domain: every process; settings only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from sealtune.job.method import METHODS, Attested, Compute, Method, method_name
from sealtune.job.presets import Preset, spelled_out, with_preset

NAME_PATTERN = "^[a-z0-9][a-z0-9-]{0,39}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
NonEmpty = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
ModuleNames = Annotated[tuple[NonEmpty, ...], Field(min_length=1)]
Blocks = tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None
Rate = Annotated[float, Field(gt=0, le=1, strict=True)]
Share = Annotated[float, Field(gt=0, lt=1, strict=True)]
EvidenceKind = Literal["simulated", "sgx", "tdx", "sev-snp"]
Precision = Literal["fp32", "bf16", "autocast"]
HEAD = "score"  # module of a classification head, in the names of its tensors
SelectHeads = Literal["l1-largest", "l1-smallest", "random", "gradient", "activation", "fisher"]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def changes(self, key: str) -> bool:
        """Whether ``key`` has another value than where it is left out."""
        return bool(getattr(self, key) != type(self).model_fields[key].get_default())


class Strict(BaseModel):
    """Base of what is signed: as ``Section``, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class JobSpec(Section):
    """``[job]``: what this run is called, how it tunes, and how long it goes on."""

    name: Name = Field(examples=["my-job"])
    """Name of the run; its results are in `runs/<name>/`."""
    method: Literal["federated-lora", "split"] = "federated-lora"
    """`federated-lora`: an enclave at each site tunes, a server enclave averages. `split`: the
    first blocks run at the sites, without a TEE; one large server enclave tunes the rest."""
    seed: int = Field(default=0, ge=0, lt=2**32, strict=True)
    """Fixes how rows are dealt out and drawn, first values and order; never keys or pads."""
    trust: Literal["enclaves", "secure-aggregation"] = "enclaves"
    """`secure-aggregation`: no TEE anywhere; sites mask updates so that the server learns their sum
    only. Weaker: nothing checks or bounds single updates. Federated jobs only."""
    rounds: int = Field(default=3, ge=1, le=10_000, strict=True)
    """How often sites train and the server averages; in a split job, tests and checkpoints."""

    @model_validator(mode="after")
    def _is_a_method(self) -> Self:
        if method_name(self.method, self.trust) not in METHODS:
            raise ValueError(f'trust = "{self.trust}" is for job.method = "federated-lora" only')
        return self

    @property
    def rules(self) -> Method:
        """What the method fixes."""
        return METHODS[method_name(self.method, self.trust)]


class SitesSpec(Section):
    """``[sites]``: who takes part, and how a pooled file is dealt out among them."""

    names: tuple[Name, ...] = Field(
        min_length=1, max_length=64, examples=[["north", "south", "west"]]
    )
    """Who takes part, each name once."""
    partition: Literal["dirichlet", "label", "file"] = Field(default="file", examples=["dirichlet"])
    """How a pooled file is dealt out: by random shares of each class, or whole classes in turn."""
    alpha: float = Field(default=0.5, gt=0, le=1000, strict=True, examples=[0.3])
    """For `dirichlet`: 0.1 makes sites very different, 100 nearly alike."""

    @field_validator("names")
    @classmethod
    def _names_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(value)


class LoraSpec(Section):
    """``[tuning.lora]``: the adapter, in PEFT's words."""

    rank: int = Field(default=8, ge=1, le=1024, strict=True)
    """Rank of the adapter's matrices."""
    alpha: float = Field(default=16, gt=0, strict=True)
    """The adapter is scaled by alpha / rank, so doubling both changes its size, not its scale."""
    dropout: float = Field(default=0.0, ge=0, lt=1, strict=True)
    """Dropout before the adapter while training."""
    targets: ModuleNames | Literal["all-linear"] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Linear layers that get an adapter, by the end of their name."""
    layers: Blocks = Field(default=None, min_length=1, examples=[[28, 29]])
    """Only these blocks get adapters, in a split job behind the cut; without it, all."""
    ranks: dict[Name, Annotated[int, Field(ge=1, le=1024, strict=True)]] = Field(
        default={}, examples=[{"north": 4}]
    )
    """Sites with a lower rank than `rank`, by name; needs aggregation.rule = "exact"."""
    scaling: Literal["lora", "rslora"] = "lora"
    """`rslora`: the adapter is scaled by alpha / sqrt(rank) instead."""
    dora: bool = Field(default=False, strict=True)
    """DoRA: tune lengths of weights' rows apart from their directions; in split jobs only."""
    start: Literal["lora", "orthogonal", "pissa"] = "lora"
    """How the matrices begin: B at zero, or both at random and orthogonal, with a product of zero;
    `pissa` changes the frozen weights and is refused."""
    learning_rate_ratio: float = Field(default=1.0, ge=1, le=1000, strict=True)
    """LoRA+: learning rate of B over that of A."""
    learning_rate: Rate | None = Field(default=None, examples=[1e-3])
    """Of A, and of what DoRA adds; without it, `train.learning_rate`."""

    def of_site(self, site: str) -> Self:
        """What a site tunes: of its own rank, with B A scaled as the others' is."""
        rank = self.ranks.get(site, self.rank)
        share = rank / self.rank
        alpha = self.alpha * (share if self.scaling == "lora" else math.sqrt(share))
        return self.model_copy(update={"rank": rank, "alpha": alpha, "ranks": {}})


class PtuningSpec(Section):
    """``[tuning.ptuning]``: P-tuning v2: keys and values of virtual tokens before every block."""

    virtual_tokens: int = Field(default=16, ge=1, le=1024, strict=True)
    """How many virtual tokens there are."""
    projection: bool = Field(default=False, strict=True)
    """Train them through a multi-layer perceptron, which is left behind in the end."""
    hidden: int | None = Field(default=None, ge=1, le=8192, strict=True, examples=[128])
    """Width of that perceptron; without it, the model's own."""


class SpfSpec(Section):
    """``[tuning.spf]``: whole attention heads, a share of each block's (``tuning/spf``)."""

    qkv: float | None = Field(default=None, ge=0, le=1, strict=True, exclude=True, examples=[0.25])
    """Short for `query`, `key` and `value` with one share."""
    query: float = Field(default=0.25, ge=0, le=1, strict=True)
    """Share of the heads whose query rows are tuned."""
    key: float = Field(default=0.25, ge=0, le=1, strict=True)
    """Share of the key/value heads whose key rows are tuned."""
    value: float = Field(default=0.25, ge=0, le=1, strict=True)
    """Share of the key/value heads whose value rows are tuned."""
    dense: float = Field(default=0.25, ge=0, le=1, strict=True)
    """Share of the heads whose columns of the attention's output projection are tuned."""
    select: SelectHeads = "l1-largest"
    """What ranks heads: their weights' L1 norm, the seed, four batches' gradients or outputs, or
    squared gradients after a warm start (`fisher`)."""
    warm_steps: int = Field(default=48, ge=0, le=100_000, strict=True)
    """For `fisher`: steps of LoRA and head before heads are ranked; training then begins anew."""
    release_heads: bool = Field(default=False, strict=True)
    """Whether heads that follow from data may stand in the server's log, summary and report."""
    layers: Blocks = Field(default=None, min_length=1, examples=[[28, 29]])
    """Only these blocks are tuned; without it, all behind the cut."""
    learning_rate: Rate | None = Field(default=None, examples=[1e-3])
    """Of what SPF tunes; without it, `train.learning_rate`."""

    @property
    def looks_at_data(self) -> bool:
        """Whether the choice of heads tells something of the samples."""
        return self.select in ("gradient", "activation", "fisher")

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        return spelled_out(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _tunes_something(self) -> Self:
        if not any((self.query, self.key, self.value, self.dense)):
            raise ValueError("query, key, value and dense are all 0, so nothing would be tuned")
        return self


class TuningSpec(Section):
    """``[tuning]``: what is trained: LoRA, SPF or both, or P-tuning v2.

    Left empty, it is LoRA. LoRA's keys may stand in ``[tuning]`` itself: ``[tuning] rank = 4`` is
    short for ``[tuning.lora] rank = 4``.
    """

    preset: Preset | None = Field(default=None, exclude=True, examples=["spf-vo"])
    """A recipe by name, in split jobs; keys of `lora` and `spf` beside it win. `paper`: a quarter
    of the heads by L1 norm, and LoRA on q, k, v, o. `spf-vo`: all values and two ninths of the
    output heads, by `fisher`, and LoRA on q, k and the MLP."""
    lora: LoraSpec | None = None
    """Low-rank adapters; without any of these tables, there is `lora` with its defaults."""
    ptuning: PtuningSpec | None = None
    """Virtual tokens, by themselves: without `lora` and `spf`."""
    spf: SpfSpec | None = None
    """Whole attention heads of each block, in split jobs only; with `lora`, both are trained."""

    def learning_rate(self, name: str, train: TrainSpec) -> float:
        """The learning rate of the trainable tensor ``name``, before ``train.schedule``."""
        own, ratio = None, 1.0
        if self.lora and ".lora_" in name:
            own = self.lora.learning_rate
            ratio = self.lora.learning_rate_ratio if ".lora_B." in name else 1.0
        elif self.spf and ".spf." in name:
            own = self.spf.learning_rate
        elif f".{HEAD}." in f".{name}":
            own = train.head_learning_rate
        return (own or train.learning_rate) * ratio

    @property
    def virtual_tokens(self) -> int:
        """How many stand before every text."""
        return self.ptuning.virtual_tokens if self.ptuning else 0

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
        rest = with_preset(rest)
        if all(rest.get(name) is None for name in cls.model_fields):
            rest["lora"] = {}
        return rest

    def of_site(self, site: str) -> Self:
        """What a site tunes: see ``LoraSpec.of_site``."""
        if self.lora is None:
            return self
        return self.model_copy(update={"lora": self.lora.of_site(site)})


class ProtectionSpec(Section):
    """``[protection]``: what the accelerator may see, and what shows that an enclave is one."""

    compute: Compute | None = Field(default=None, examples=["enclave"])
    """Where the frozen layers of what is tuned are computed. `masked`: on an accelerator that is
    not trusted, as int8 under masks. `enclave`: on the enclave's processor, without accelerator.
    `attested-gpu`: on its GPU, which computes confidentially and proves it with the enclave.
    Left out: `masked` in a federated job, `enclave` in a split one."""
    protect: Literal["adapter+data", "adapter", "insecure-none"] = "adapter+data"
    """What the accelerator must not see. Of `adapter`, it is the data owner's own machine."""
    integrity_bits: int = Field(default=40, ge=1, le=128, strict=True)
    """That any wrong product of the accelerator is missed has probability at most 2^-bits."""
    pads: Literal["enclave", "second-accelerator"] = "enclave"
    """Who multiplies the masks: the enclave, in idle time, or a second accelerator.

    Its operator must be another one than the first's: neither learns anything alone, both together
    everything. The enclave then holds no weights of the masked layers."""
    pad_budget: int = Field(default=64, ge=0, le=2**20, strict=True)
    """MiB of pads that a site's enclave makes ahead while it waits for the server; 0: none."""
    attestation: EvidenceKind | dict[Attested, EvidenceKind] = "simulated"
    """Evidence of the enclaves; `simulated` protects nothing, and results say so.

    One kind for all enclaves, or a table `{server = kind, site = kind}`; a split job's sites sign
    with their key instead. Any other kind needs measurements: `sealtune job build --policy`."""

    def evidence(self, role: Attested) -> EvidenceKind:
        """The kind of evidence that the enclave of this role shows."""
        if isinstance(self.attestation, dict):
            return self.attestation[role]
        return self.attestation


class TrainSpec(Section):
    """``[train]``: optimisation; in a federated job, between two aggregations."""

    steps_per_round: Annotated[int, Field(ge=1, strict=True)] | Literal["epoch"] = "epoch"
    """Optimizer steps in each round, of each site or the server; or one pass over the examples."""
    batch_size: int = Field(default=16, ge=1, strict=True)
    """Rows in a step."""
    learning_rate: Rate = 1e-3
    """Of AdamW, for all that has no rate of its own."""
    head_learning_rate: Rate | None = Field(default=None, examples=[3e-4])
    """Of the classification head; without it, `learning_rate`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How learning rates go through the job, all rounds together: `cosine` lets them fall to 0."""
    warmup: float = Field(default=0.0, ge=0, lt=1, strict=True)
    """Share of the job's steps in which learning rates rise from 0, before the schedule begins."""
    weight_decay: float = Field(default=0.0, ge=0, strict=True)
    """Of AdamW."""
    eval_batch_size: int = Field(default=32, ge=1, strict=True)
    """Rows evaluated at once."""
    precision: Precision = "fp32"
    """Of whoever trains. `bf16`: frozen weights and activations are bfloat16. `autocast`: products
    alone are. What is tuned, its gradients and AdamW are float32; masked products are exact."""
    checkpointing: bool = Field(default=False, strict=True)
    """Of whoever trains: compute activations anew in the backward pass, for less memory and more
    time. Masked layers send what they sent a second time, under fresh masks."""

    @model_validator(mode="after")
    def _decays(self) -> Self:
        for key in ("learning_rate", "head_learning_rate"):
            if (getattr(self, key) or 0) * self.weight_decay > 1:
                raise ValueError(f"{key} times weight_decay is above 1: no step may pass 0")
        return self

    @property
    def changes_rates(self) -> bool:
        """Whether some step has another learning rate than the one before."""
        return self.schedule != "constant" or self.warmup > 0

    def steps(self, examples: int) -> int:
        """Optimizer steps of one round on so many examples."""
        if isinstance(self.steps_per_round, int):
            return self.steps_per_round
        return max(1, examples // self.batch_size)


class SplitSpec(Section):
    """``[split]``: where a split job cuts the model, and how the server enclave computes."""

    cut: Annotated[int, Field(ge=1, strict=True)] | Share = Field(examples=[0.5])
    """Blocks that run at the sites, or their share of all blocks."""
    activations: Literal["bf16", "int8", "fp32"] = "bf16"
    """How cut activations travel and are kept: 2, 1 or 4 bytes a value."""


class NetworkSpec(Section):
    """``[network]``: patience and quorum."""

    min_sites: int | None = Field(default=None, ge=1, strict=True, examples=[2])
    """Sites whose updates a round needs, or whose samples a split job needs; without it, all."""
    deadline: float = Field(default=1800.0, gt=0, strict=True)
    """Seconds that a site may take for one message; one that takes longer is reported as late."""


def distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    """Raise ValueError if one of them stands there twice."""
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"names {', '.join(map(repr, twice))} more than once")
    return values


def faults(error: ValidationError, whole: str = "file") -> list[Problem]:
    """What a model says of values that it does not take; ``whole``: what stands there of itself."""
    return [
        Problem(
            ".".join(map(str, fault["loc"])) or whole,
            # what a rule of ours says, bare
            str(fault["ctx"]["error"] if fault["type"] == "value_error" else fault["msg"]),
        )
        for fault in error.errors(include_url=False, include_input=False)
    ]


def rule_error(title: str, problems: Sequence[Problem]) -> ValidationError:
    """The error of a model whose keys are well-formed and do not go together."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("rule", "{message}", {"message": problem.message}),
            loc=tuple(problem.key.split(".")),
            input=None,
        )
        for problem in problems
    ]
    return ValidationError.from_exception_data(title, details)
