"""A site's data as it was signed, and the task that reads it.

Trust domain: client enclave (federated), data owner (split).
"""

from __future__ import annotations

from sealtune.data.digest import check_data
from sealtune.data.site import SiteData, load_site
from sealtune.enclave.events import Emit
from sealtune.job.resolved import Resolved
from sealtune.model.fit import check_tokenizer, fit_texts
from sealtune.model.load import load_config, load_tokenizer
from sealtune.model.tasks import Task, make_task


def load_own_data(resolved: Resolved, site: str, emit: Emit) -> tuple[SiteData, Task]:
    """Load a site's examples, hold them against the manifest, and say how many texts are cut.

    Raises:
        DataError: they cannot be used.
        DigestMismatchError: they are not what was signed.
    """
    job = resolved.job
    data = load_site(job, site, resolved.labels)
    check_data(resolved.manifest, site, data)
    tokenizer, config = load_tokenizer(job.model), load_config(job.model)
    check_tokenizer(tokenizer, config)
    for part, examples in (("training", data.train), ("test", data.test)):
        cut = fit_texts(job, tokenizer, config, examples).warning(site, part)
        if cut:
            emit(**cut)
    return data, task_of(resolved, tokenizer)


def task_of(resolved: Resolved, tokenizer: object) -> Task:
    """The job's task."""
    job = resolved.job
    return make_task(
        job.model.task,
        tokenizer,
        max_tokens=job.data.max_tokens,
        template=job.data.template,
        labels=resolved.labels,
    )
