"""Decide everything that a job file leaves open, and find its faults before a process is started.

    resolution = resolve(job)
    manifest = resolution.manifest(participants, code=digests, appraisal=policies)

This is for runs where one machine holds every site's data. No party relies on it: each works plan
and digests out again and compares (``plan.holdings``).

Trust domain: data owners' machine; its result is public to the job's participants.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sealtune.data.digest import identify
from sealtune.data.site import SiteData, discover_labels, load_sites
from sealtune.errors import DataError, DigestMismatchError
from sealtune.job.manifest import DataIdentity, Manifest, ModelIdentity
from sealtune.job.plan import SlicePlan
from sealtune.job.proposal import make_manifest
from sealtune.job.spec import Job
from sealtune.model.files import ModelFiles, model_files
from sealtune.model.fit import fit_texts, fitting_task
from sealtune.model.load import load_config
from sealtune.model.partial import check_weights
from sealtune.party.found import Found
from sealtune.plan.holdings import identify_model
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
            self.job.settings,
            labels=self.labels,
            model=self.model,
            plan=self.plan,
            data=self.data,
            **terms,
        )

    @property
    def found(self) -> Found:
        """What of it a manifest is held against."""
        return Found(self.labels, self.model, self.plan, self.data)


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
    task, config = fitting_task(job, labels), load_config(job.model)
    for data in sites.values():
        for examples in (data.train, data.test):
            fit_texts(task, config, examples, virtual_tokens=job.tuning.virtual_tokens)
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
        data={name: identify(data, labels) for name, data in sites.items()},
        majority_class=_majority(sites) if labels else None,
    )


def work_out(job: Job, manifest: Manifest, site: str | None = None) -> Found:
    """What lies on this machine of a job that was signed, or is to be, as ``check_found`` takes it.

    Args:
        site: look at this site's data only; None: at every site's.

    Raises:
        DigestMismatchError: the manifest names no such site.
        DataError, ModelError: files that cannot be used at all.
    """
    if site is not None and site not in manifest.data:
        raise DigestMismatchError(f"the manifest names no site '{site}'")
    sites = load_sites(job, manifest.labels, only=None if site is None else (site,))
    return Found(
        labels=discover_labels(job) if site is None else None,
        model=identify_model(job.model),
        plan=make_plan(job, len(manifest.labels) or None),
        data={name: identify(data, manifest.labels) for name, data in sites.items()},
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
