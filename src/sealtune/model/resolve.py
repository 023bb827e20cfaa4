"""Decide everything that a job file leaves open, and find its faults before a process is started.

    resolution = resolve(job)
    manifest = resolution.manifest(participants, code_digest=code, appraisal=policy)
    resolved = resolution.write(run_dir / "job.resolved.json", envelope)  # signed by all

This is for runs where one machine holds every site's data. Client enclaves do not rely on it: they
work the plan and the digests out again and compare.

Trust domain: data owners' machine; its result is public to the job's participants.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealtune.data.digest import identify
from sealtune.data.site import SiteData, discover_labels, load_sites
from sealtune.errors import DataError, ModelError
from sealtune.job.dsse import Envelope
from sealtune.job.manifest import DataIdentity, Manifest, ModelIdentity, make_manifest
from sealtune.job.plan import SlicePlan
from sealtune.job.resolved import Resolved, write_resolved
from sealtune.job.settings import Settings
from sealtune.job.spec import Job
from sealtune.model.agree import identify_model
from sealtune.model.files import ModelFiles, model_digest, model_files
from sealtune.model.fit import check_tokenizer, fit_texts
from sealtune.model.load import load_config, load_tokenizer
from sealtune.model.partial import check_weights
from sealtune.model.tasks import task_of
from sealtune.plan.planner import make_plan


@dataclass(frozen=True)
class Resolution:
    """A job with everything decided.

    Attributes:
        job: the settings.
        labels: class names in the order of their numbers; empty for ``causal-lm``.
        plan: where each module runs.
        model: name and digests of the base model.
        data: site -> digests of its data.
        majority_class: accuracy of always answering the most frequent class of the test rows; None
            for ``causal-lm``.
    """

    job: Job
    labels: tuple[str, ...]
    plan: SlicePlan
    model: ModelIdentity
    data: dict[str, DataIdentity]
    majority_class: float | None

    def manifest(self, **terms: Any) -> Manifest:
        """What the participants are to sign; ``terms`` are those of ``make_manifest``."""
        return make_manifest(
            Settings.of(self.job),
            labels=self.labels,
            model=self.model,
            plan=self.plan,
            data=self.data,
            **terms,
        )

    def write(self, path: Path, envelope: Envelope) -> Resolved:
        """Write ``job.resolved.json``; see ``job.resolved``.

        Args:
            envelope: the manifest, signed by every participant.

        Raises:
            ManifestError: it is not, or it is of another job.
            StorageError: the file cannot be written.
        """
        return write_resolved(
            path,
            job=self.job,
            labels=self.labels,
            plan=self.plan,
            model_digest=self.model.digest,
            envelope=envelope,
        )


@dataclass(frozen=True)
class Checked:
    """A job whose data and model go together.

    Attributes:
        job: the settings; a hub's model at its commit.
        labels: class names in the order of their numbers; empty for ``causal-lm``.
        sites: each site's examples.
        files: of the model.
    """

    job: Job
    labels: tuple[str, ...]
    sites: dict[str, SiteData]
    files: ModelFiles


def check(job: Job) -> Checked:
    """Find labels, and check every site's data, the task, the model's files and the tuning.

    Everything that can be known before a process is started, but the int8 backbone.

    Raises:
        DataError: data that cannot be used, or a site without training rows, or no test row at all.
        ModelError, ConfigError: the model, the label words, the cut or the adapter's targets cannot
            be used.
    """
    labels = discover_labels(job)
    sites = load_sites(job, labels)
    _check_rows(sites)
    job, files = _at_its_commit(job)
    tokenizer, config = load_tokenizer(job.model), load_config(job.model)
    check_tokenizer(tokenizer, config)
    task = task_of(job, labels, tokenizer)
    for data in sites.values():
        for examples in (data.train, data.test):
            fit_texts(task, config, examples)
    make_plan(job, len(labels) or None, backbone=False)
    check_weights(job.model)
    return Checked(job, labels, sites, files)


def resolve(job: Job) -> Resolution:
    """``check`` a job, and make its slice plan, and the int8 backbone if it needs one.

    Raises:
        DataError, ModelError, ConfigError: as for ``check``.
    """
    checked = check(job)
    job, labels, sites = checked.job, checked.labels, checked.sites
    return Resolution(
        job=job,
        labels=labels,
        plan=make_plan(job, len(labels) or None),
        model=identify_model(job.model),
        data={name: identify(data) for name, data in sites.items()},
        majority_class=_majority(sites) if labels else None,
    )


def check_resolved(resolved: Resolved) -> None:
    """Repeat what ``resolve`` decided about the model and compare: an enclave believes no file.

    Raises:
        ModelError: the model or the slice plan is not the one that the job id stands for.
    """
    if model_digest(resolved.job.model) != resolved.model_digest:
        raise ModelError(
            f"the model in {resolved.job.model.path} is not the one that this job was made for",
            hint="start the run anew, or restore the model's files",
        )
    plan = make_plan(resolved.job, len(resolved.labels) or None)
    if plan.digest != resolved.plan.digest:
        raise ModelError(
            "the slice plan in job.resolved.json is not the one that follows from the job",
            hint="somebody changed it, or versions differ: start the run anew",
        )


def _at_its_commit(job: Job) -> tuple[Job, ModelFiles]:
    """A hub's model may move on: what was looked at now is what every process reads."""
    files = model_files(job.model)
    if not files.revision:
        return job, files
    model = job.model.model_copy(update={"revision": files.revision})
    return job.model_copy(update={"model": model}), files


def _check_rows(sites: dict[str, SiteData]) -> None:
    empty = [name for name, data in sites.items() if not data.train]
    if empty:
        raise DataError(
            f"no training rows for {', '.join(empty)}",
            hint="give every site a file with rows; with a dealt-out file, raise sites.alpha",
        )
    if not any(data.test for data in sites.values()):
        raise DataError("there are no test rows", hint="without them nothing can be measured")


def _majority(sites: dict[str, SiteData]) -> float:
    counts = Counter(example.label for data in sites.values() for example in data.test)
    return max(counts.values()) / counts.total()
