"""A site's data as it was signed, and the task that reads it.

Trust domain: client enclave (federated), data owner (split).
"""

from __future__ import annotations

from sealtune.data.digest import check_data
from sealtune.data.site import load_site
from sealtune.enclave.events import Emit
from sealtune.job.resolved import Resolved
from sealtune.model.fit import check_tokenizer, fit_texts
from sealtune.model.load import load_config, load_tokenizer
from sealtune.model.tasks import Task, task_of
from sealtune.model.texts import SiteTexts


def load_own_data(resolved: Resolved, site: str, emit: Emit) -> tuple[SiteTexts, Task]:
    """Load a site's examples, hold them against the manifest, encode them, and say what is cut.

    Raises:
        DataError: they cannot be used.
        DigestMismatchError: they are not what was signed.
    """
    job = resolved.job
    data = load_site(job, site, resolved.labels)
    check_data(resolved.manifest, site, data)
    tokenizer, config = load_tokenizer(job.model), load_config(job.model)
    check_tokenizer(tokenizer, config)
    task = task_of(job, resolved.labels, tokenizer)
    train, test = (fit_texts(task, config, examples) for examples in (data.train, data.test))
    for part, texts in (("training", train), ("test", test)):
        if texts.truncated:
            count, of = texts.truncated, len(texts)
            emit("warning", what="truncated", site=site, part=part, count=count, of=of)
    return SiteTexts(train, test), task
