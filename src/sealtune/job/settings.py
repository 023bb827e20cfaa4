"""A job's settings without places: what all participants can agree on, whatever their paths.

Rules that join two sections are in ``disagreements``, so that whoever reads a file can report them
beside the faults of single keys.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from sealtune.errors import ConfigError, Problem
from sealtune.job.aggregation_rules import aggregation_problems
from sealtune.job.compute_rules import compute_disagreements, compute_of
from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.method import Compute
from sealtune.job.pad_operators import pad_disagreements
from sealtune.job.participation_rules import participation_disagreements
from sealtune.job.privacy_rules import privacy_disagreements
from sealtune.job.rank_rules import rank_disagreements
from sealtune.job.robust_rules import robust_disagreements
from sealtune.job.sections import (
    JobSpec,
    NetworkSpec,
    ProtectionSpec,
    Section,
    SitesSpec,
    SplitSpec,
    TrainSpec,
    TuningSpec,
    rule_error,
)
from sealtune.job.sum_rules import sum_disagreements
from sealtune.job.tuning_rules import tuning_disagreements


class ModelSettings(Section):
    """``[model]`` without its place."""

    task: Literal["classification", "label-words", "causal-lm"] = "classification"
    """Train a head on the last token, compare the labels' first tokens, or continue text."""


class DataSettings(Section):
    """``[data]`` without files and labels, which a manifest states by digests and for itself.

    The template is a text here: whoever fills texts in parses it, with its places (``spec``).
    """

    template: str = "{text}"
    """The prompt, with names of columns in braces; `{{` and `}}` are single braces."""
    label: str = Field(default="label", min_length=1, max_length=1000)
    """Column with the class: text or whole numbers."""
    max_tokens: int = Field(default=64, ge=2, le=8192, strict=True, examples=[32])
    """Longer texts are cut to this many tokens, and counted."""
    max_train_rows: int | None = Field(default=None, ge=1, strict=True, examples=[600])
    """Training rows of all sites together, each class in proportion; without it, all rows."""
    max_test_rows: int | None = Field(default=None, ge=1, strict=True, examples=[420])
    """Test rows of all sites together, each class in proportion; without it, all rows."""


class Settings(Section):
    """All sections of a job that a run reads."""

    job: JobSpec
    model: ModelSettings
    data: DataSettings
    sites: SitesSpec
    tuning: TuningSpec = TuningSpec()
    protection: ProtectionSpec = ProtectionSpec()
    train: TrainSpec = TrainSpec()
    aggregation: AggregationSpec = AggregationSpec()
    privacy: PrivacySpec = PrivacySpec()
    network: NetworkSpec = NetworkSpec()
    split: SplitSpec | None = None

    @property
    def asked(self) -> int:
        """How many sites train in a round, or send their samples in a split job."""
        return self.aggregation.asked(len(self.sites.names))

    @property
    def quorum(self) -> int:
        """Number of updates that a round needs; at most ``asked``."""
        return self.network.min_sites or self.asked

    @property
    def compute(self) -> Compute | None:
        """Where frozen layers are computed, given or not; None: at data owners alone."""
        return compute_of(self.job, self.protection)

    @property
    def accelerated(self) -> bool:
        """Whether each site's enclave has an accelerator."""
        return self.compute == "masked"

    @property
    def split_settings(self) -> SplitSpec:
        """``[split]``, for code that runs in no job without it.

        Raises:
            ConfigError: the job is of another method.
        """
        if self.split is None:
            problem = Problem("split", f"is missing: the job is {self.job.method}")
            raise ConfigError("the job", [problem])
        return self.split

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if problems := self._disagreements():
            raise rule_error("Job", problems)
        return self

    def _disagreements(self) -> list[Problem]:
        return [
            *disagreements(self.model, self.data, self.sites, self.network),
            *method_disagreements(self.job, self.tuning, self.protection, self.split),
            *unread(self.job, self.protection),
            *compute_disagreements(self.job, self.protection),
            *pad_disagreements(self.protection),
            *tuning_disagreements(self.job, self.model, self.tuning, self.train),
            *aggregation_problems(self.job, self.aggregation),
            *participation_disagreements(self.job, self.sites, self.network, self.aggregation),
            *robust_disagreements(self.sites, self.aggregation),
            *rank_disagreements(self.job, self.sites, self.tuning, self.aggregation),
            *privacy_disagreements(
                self.job, self.model, self.tuning, self.train, self.aggregation, self.privacy
            ),
            *sum_disagreements(self.job, self.sites, self.aggregation, self.privacy, self.network),
        ]


def disagreements(
    model: ModelSettings | None,
    data: DataSettings | None,
    sites: SitesSpec | None,
    network: NetworkSpec | None,
) -> list[Problem]:
    """Faults between sections, each with its key; a section that is itself faulty is None."""
    problems = []
    if network and sites and (network.min_sites or 0) > len(sites.names):
        message = f"is {network.min_sites}, but sites.names has only {len(sites.names)}"
        problems.append(Problem("network.min_sites", message))
    if model and data and model.task == "label-words" and data.template.rstrip() != data.template:
        message = (
            "ends in white space, which would keep the model from writing a label word "
            "(its tokens start with a space): remove it"
        )
        problems.append(Problem("data.template", message))
    return problems


def method_disagreements(
    job: JobSpec | None,
    tuning: TuningSpec | None,
    protection: ProtectionSpec | None,
    split: SplitSpec | None,
) -> list[Problem]:
    """Faults between the method and the sections that only one of the methods has."""
    if job is None:
        return []
    method, problems = job.rules, []
    if protection and isinstance(protection.attestation, dict):
        key, named = "protection.attestation", protection.attestation
        for role in dict.fromkeys((*method.attested, *named)):
            if role not in named:
                words = "is missing: each role that shows evidence needs its kind"
            elif role not in method.attested:
                words = f"shows no evidence in a {job.method} job: it signs; remove it"
            else:
                continue
            problems.append(Problem(f"{key}.{role}", words))
    if tuning:
        given = {"split": split, "tuning.spf": tuning.spf}
        problems += [fault for key, fault in method.required.items() if given[key] is None]
        problems += [fault for key, fault in method.refused.items() if given[key] is not None]
    return problems


def unread(job: JobSpec | None, protection: ProtectionSpec | None) -> list[Problem]:
    """Keys that a job of this method would not read, and that are set to something all the same.

    Those of ``[aggregation]`` and ``[privacy]`` have rules of their own.
    """
    if job is None:
        return []
    problems, unused = [], job.rules.unused
    for name, section in (("job", job), ("protection", protection)):
        for key, field in type(section).model_fields.items() if section else ():
            why, value = unused.get(name) or unused.get(f"{name}.{key}"), getattr(section, key)
            if why and value != field.get_default():
                words = f"is {value}, which is not read: {why}; leave it out"
                problems.append(Problem(f"{name}.{key}", words))
    return problems
