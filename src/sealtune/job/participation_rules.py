"""Whether the sites that a round asks (``aggregation.participation``) can be a quorum and a cohort.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from sealtune.errors import Problem
from sealtune.job.federated_sections import AggregationSpec
from sealtune.job.sections import JobSpec, NetworkSpec, SitesSpec


def participation_disagreements(
    job: JobSpec | None,
    sites: SitesSpec | None,
    network: NetworkSpec | None,
    aggregation: AggregationSpec | None,
) -> list[Problem]:
    """What no sample of so many sites can be; a section that is itself faulty is None."""
    if not (job and sites and network and aggregation) or aggregation.participation == 1:
        return []
    every, wanted = len(sites.names), network.min_sites or 0
    asked, least = aggregation.asked(every), job.rules.least_cohort(every)
    key, problems = "aggregation.participation", []
    if asked < least:
        words = f"asks {asked} of {every} sites in a round, but an aggregate comes from {least}"
        problems.append(Problem(key, words))
    if asked < wanted <= every:
        words = f"is {wanted}, but {key} asks {asked} of {every} sites in a round"
        problems.append(Problem("network.min_sites", words))
    return problems
