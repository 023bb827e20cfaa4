"""What goes with sites of different ranks, and with the mean of products of factors.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from collections.abc import Iterator

from sealtune.errors import Problem
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.sections import JobSpec, LoraSpec, SitesSpec, TuningSpec

EXACT = "exact"  # the rule that averages products


def rank_disagreements(
    job: JobSpec | None,
    sites: SitesSpec | None,
    tuning: TuningSpec | None,
    aggregation: AggregationSpec | None,
) -> list[Problem]:
    """Faults between sections, each with its key; a section that is itself faulty is None."""
    if job is None or tuning is None:
        return []
    problems: list[Problem] = []
    if tuning.lora is not None and tuning.lora.ranks:
        problems += _of_ranks(job, sites, tuning.lora, aggregation)
    if aggregation is not None and aggregation.rule == EXACT and tuning.lora is None:
        words = f'is "{EXACT}", which averages products of LoRA; there is no tuning.lora'
        problems.append(Problem("aggregation.rule", words))
    return problems


def _of_ranks(
    job: JobSpec, sites: SitesSpec | None, lora: LoraSpec, aggregation: AggregationSpec | None
) -> Iterator[Problem]:
    key = "tuning.lora.ranks"
    if job.rules.server_trains:
        yield Problem(key, f"is for sites that train; in a {job.method} job the server does")
        return
    for site, rank in lora.ranks.items():
        if sites is not None and site not in sites.names:
            words = f"there is no site '{site}'; the job has {', '.join(sites.names)}"
            yield Problem(f"{key}.{site}", words)
        if rank > lora.rank:
            words = f"is {rank}, above tuning.lora.rank, which is {lora.rank}"
            yield Problem(f"{key}.{site}", words)
    if aggregation is not None and aggregation.rule != EXACT:
        words = (
            f'needs aggregation.rule = "{EXACT}": factors of different ranks have no mean that '
            f'stands for the mean of their adapters; it is "{aggregation.rule}"'
        )
        yield Problem(key, words)
    if lora.start == "orthogonal":
        words = 'is "orthogonal": B A is zero of all rows together only, and lower ranks take a few'
        yield Problem("tuning.lora.start", words)
