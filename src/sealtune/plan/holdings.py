"""What a party holds of a job: model, slice plan, data. Loaded, worked out anew, and compared with
the manifest before anything is done with it. Which role holds what is in ``plan.roles``.

Trust domain: every process that holds a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sealtune.job.local import Local
from sealtune.job.manifest import Manifest, ModelIdentity
from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job, ModelSpec, placed
from sealtune.model.files import model_files
from sealtune.model.fit import fit_texts, fitting_task
from sealtune.model.load import load_config
from sealtune.model.tasks import Task
from sealtune.model.texts import SiteTexts
from sealtune.party.found import Found, check_found
from sealtune.plan.planner import make_plan


@dataclass(frozen=True)
class Holdings:
    """The model of the manifest lies here; None: what the role does not hold.

    Attributes:
        job: the signed settings, with this party's places.
        plan: where each module runs; its backbone is a file of this machine.
        task: the job's task, with the model's tokenizer.
        texts: the site's examples, encoded.
    """

    job: Job
    plan: SlicePlan
    task: Task | None = None
    texts: SiteTexts | None = None

    @property
    def truncated(self) -> list[dict[str, Any]]:
        """How many texts are cut, for an event of each part of the data in which some are."""
        if self.texts is None:
            return []
        parts = (("training", self.texts.train), ("test", self.texts.test))
        return [
            {"what": "truncated", "part": part, "count": texts.truncated, "of": len(texts)}
            for part, texts in parts
            if texts.truncated
        ]


def hold_model(manifest: Manifest, local: Local) -> Holdings:
    """Compare the model's files, and the plan that follows from them.

    Raises:
        DigestMismatchError: they are not what was signed.
        ModelError: they cannot be used at all.
    """
    job = place(manifest, local)
    check_found(manifest, Found(model=identify_model(job.model)))
    plan = make_plan(job, len(manifest.labels) or None)
    check_found(manifest, Found(plan=plan))
    return Holdings(job, plan)


def hold_task(manifest: Manifest, local: Local) -> Holdings:
    """As ``hold_model``, and make the task."""
    held = hold_model(manifest, local)
    return replace(held, task=fitting_task(held.job, manifest.labels))


def hold_data(manifest: Manifest, local: Local) -> Holdings:
    """As ``hold_task``, and compare the site's data.

    Raises:
        DataError: data that cannot be used at all, or texts that the model has no place for.
    """
    # the readers of data are for those who hold data
    from sealtune.data.digest import identify
    from sealtune.data.site import load_site

    held, site = hold_model(manifest, local), local.site or ""
    job = held.job
    task, config = fitting_task(job, manifest.labels), load_config(job.model)
    data = load_site(job, site, manifest.labels)
    check_found(manifest, Found(data={site: identify(data, manifest.labels)}))
    train, test = (
        fit_texts(task, config, part, virtual_tokens=job.tuning.virtual_tokens)
        for part in (data.train, data.test)
    )
    return replace(held, task=task, texts=SiteTexts(train, test))


def place(manifest: Manifest, local: Local) -> Job:
    """The signed settings, with the places of the local file.

    Raises:
        MalformedManifestError: the prompt template is none.
    """
    where: dict[str, Any] = {}
    if local.model is not None:
        where = {"model": local.model.path, "revision": local.model.revision}
    if local.data is not None:
        of_sites = manifest.settings.sites.partition == "file"
        for part in ("train", "test"):
            file: Path = getattr(local.data, part)
            where[part] = {local.site or "": file} if of_sites else file
    return placed(manifest.settings, **where)


def identify_model(spec: ModelSpec) -> ModelIdentity:
    """Name and digests of the model.

    Raises:
        ModelError: it cannot be read.
    """
    files = model_files(spec)
    hub = f"{spec.path}@{files.revision}" if files.revision else ""
    return ModelIdentity(
        name=(hub or files.folder.name)[:200],
        digest=files.digest,
        tokenizer_digest=files.tokenizer_digest,
    )
