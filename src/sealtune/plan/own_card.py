"""What a site says of itself on its card: worked out from what lies on its own machine.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from collections import Counter

from sealtune.attest.policy import AppraisalPolicy
from sealtune.data.digest import identify
from sealtune.data.site import SiteData, check_spelling, labels_of_site, load_site
from sealtune.errors import DataError
from sealtune.job.card import CardModel, Signer, SiteCard
from sealtune.job.job_file import JobFile
from sealtune.model.fit import fit_texts, fitting_task
from sealtune.model.load import load_config
from sealtune.model.partial import check_weights
from sealtune.plan.holdings import identify_model
from sealtune.plan.own_program import program_facts, this_machine


def site_card(
    job: JobFile,
    site: str,
    signer: Signer,
    *,
    node_key: str,
    accelerator_operator: str | None = None,
    policy: AppraisalPolicy | None = None,
    note: str = "",
) -> SiteCard:
    """The card of ``site``: its data and its model are read, and found to go together.

    Args:
        job: with the places of this machine.
        site: of this machine.
        signer: the organisation that answers for it.
        node_key: public key of its node.
        accelerator_operator: who runs its accelerator, where the job has pad accelerators.
        policy: accepted evidence of its enclave; default: simulated evidence from here, or none.
        note: for people.

    Raises:
        DataError: data that cannot be used, no training row, or labels that name single rows.
        ModelError, ConfigError: the model, or the label words, cannot be used.
        WeakEvidenceError: the policy accepts code that nobody named.
    """
    labels, only_in_test = _labels(job, site)
    numbered = job.data.labels or tuple(sorted({*labels, *only_in_test}))
    data = load_site(job, site, numbered)
    if not data.train:
        raise DataError(f"no training rows for {site}")
    task, config = fitting_task(job, numbered), load_config(job.model)
    train, test = (
        fit_texts(task, config, part, virtual_tokens=job.tuning.virtual_tokens)
        for part in (data.train, data.test)
    )
    check_weights(job.model)
    model = identify_model(job.model)
    return SiteCard(
        role="site",
        site=site,
        model=CardModel(digest=model.digest, tokenizer_digest=model.tokenizer_digest),
        data=identify(data, numbered),
        labels=labels,
        labels_only_in_test=_used(data, numbered, only_in_test),
        cut_train=train.truncated,
        cut_test=test.truncated,
        node_key=node_key,
        accelerator_operator=accelerator_operator,
        **program_facts(job, "site", policy),
        machine=this_machine(note),
        **signer.head(job.settings, job.data.labels),
    )


def _labels(job: JobFile, site: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels of the site's training rows, and those of its test rows alone; none where the job file
    names them, or has none.
    """
    if job.model.task == "causal-lm" or job.data.labels is not None:
        return (), ()
    train, test = labels_of_site(job, site)
    check_spelling(job.data.label, {*train, *test})
    for rows in (train, test):
        _check_labels_are_classes(job.data.label, rows)
    return tuple(sorted(train)), tuple(sorted(test.keys() - train.keys()))


def _check_labels_are_classes(column: str, rows: Counter[str]) -> None:
    """A job file that came from elsewhere could name a column with patients' names in it."""
    alone = sum(count == 1 for count in rows.values())
    if 2 * alone > rows.total():
        raise DataError(
            f"{alone:,} of {rows.total():,} rows have a label in column '{column}' that no other "
            "row has: a card names labels, and these may be names of single rows",
            hint="is data.label the right column? Name all classes in data.labels: then cards "
            "name none",
        )


def _used(data: SiteData, names: tuple[str, ...], some: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``some`` labels that a test row has which counts."""
    found = {names[one.label] for one in data.test if one.label is not None}
    return tuple(label for label in some if label in found)
