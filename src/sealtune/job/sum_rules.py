"""What goes with secure aggregation: nothing that looks at single updates.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from collections.abc import Iterator

from sealtune.errors import Problem
from sealtune.job.federated_sections import AggregationSpec, PrivacySpec
from sealtune.job.sections import JobSpec, NetworkSpec, Section, SitesSpec

_HIDDEN = "secure aggregation hides single updates from the server"


def sum_disagreements(
    job: JobSpec | None,
    sites: SitesSpec | None,
    aggregation: AggregationSpec | None,
    privacy: PrivacySpec | None,
    network: NetworkSpec | None,
) -> list[Problem]:
    """Faults between sections, each with its key; a section that is itself faulty is None."""
    if job is None or not job.rules.sums_only:
        return []
    problems: list[Problem] = []
    if sites:
        problems += _of_sites(job, sites, network)
    if aggregation:
        problems += _of_rule(aggregation)
    if privacy:
        problems += _stated("privacy", privacy, _PRIVACY)
    return problems


_PRIVACY = {
    "site_metrics": "is true, but sites give out sums only, of metrics too: leave it out",
}
_AGGREGATION = {
    "outliers": "is about comparing single updates, which nobody sees: leave it out",
    "participation": "is below 1, but more than two thirds of all sites must take part",
    "personal": "is not possible with secure aggregation yet: leave it out",
}


def _of_sites(job: JobSpec, sites: SitesSpec, network: NetworkSpec | None) -> Iterator[Problem]:
    count, least = len(sites.names), job.rules.least_sites(len(sites.names))
    if count < least:
        words = f"are {count}; a sum needs {least}: of a sum of two, each knows the other's part"
        yield Problem("sites.names", words)
    elif network and network.min_sites is not None and network.min_sites < least:
        words = (
            f"is {network.min_sites}, but with secure aggregation {least} of {count} sites must "
            "see a round through: more than two thirds"
        )
        yield Problem("network.min_sites", words)


def _of_rule(aggregation: AggregationSpec) -> Iterator[Problem]:
    if aggregation.rule != "fedavg":
        words = f'is "{aggregation.rule}", which looks at single updates, and {_HIDDEN}: '
        yield Problem("aggregation.rule", words + 'set "fedavg"')
    if aggregation.norm_bound == "auto":
        words = (
            f'is "auto", which follows single updates, and {_HIDDEN}: set "none", or a number to '
            "which each site clips its own update, unchecked"
        )
        yield Problem("aggregation.norm_bound", words)
    yield from _stated("aggregation", aggregation, _AGGREGATION)


def _stated(section: str, given: Section, refused: dict[str, str]) -> Iterator[Problem]:
    """What to say of keys that have another value than when they are left out."""
    for key, words in refused.items():
        if given.changes(key):
            yield Problem(f"{section}.{key}", words)
