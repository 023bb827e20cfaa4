"""Pad accelerators of a job, from their cards and from what sites say of their accelerators.

Trust domain: whoever builds a manifest; every organisation compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sealtune.errors import Problem
from sealtune.job.card import PadAcceleratorCard, SiteCard
from sealtune.job.job_file import JobFile
from sealtune.job.pad_operators import NO_COLLUSION, PadAccelerator

Sites = Mapping[str, SiteCard]
Pads = Mapping[str, PadAcceleratorCard]


def pad_faults(job: JobFile, sites: Sites, pads: Pads) -> Iterator[Problem]:
    """What is wrong with them.

    Args:
        sites: file -> card.
        pads: file -> card.
    """
    if job.protection.pads == "enclave":
        words = "is of a pad accelerator; protection.pads asks for none"
        yield from (Problem(file, words) for file in pads)
        words = "names its accelerator's operator, which protection.pads does not ask for"
        yield from (
            Problem(file, words) for file, card in sites.items() if card.accelerator_operator
        )
        return
    for name in job.sites.names:
        serving = [file for file, one in pads.items() if name in one.sites]
        if len(serving) != 1:
            several = f"has several pad accelerators: {', '.join(serving)}"
            yield Problem(f"site {name}", several if serving else "has no pad accelerator's card")
    for file, card in sites.items():
        if card.accelerator_operator is None:
            yield Problem(file, "does not say who runs its accelerator (--accelerator-operator)")
    for file, one in pads.items():
        yield from _of_pads(job, sites, file, one)
        same = [f for f, o in pads.items() if o.pad_key == one.pad_key and o.org != one.org]
        if same:
            yield Problem(file, f"has the same pad_key as {', '.join(same)}, of another operator")


def _of_pads(job: JobFile, sites: Sites, file: str, one: PadAcceleratorCard) -> Iterator[Problem]:
    for site in sorted(set(one.sites) - set(job.sites.names)):
        yield Problem(file, f"is for site {site}; the job has {', '.join(job.sites.names)}")
    for card in sites.values():
        if card.site not in one.sites:
            continue
        if one.org == card.accelerator_operator:
            words = f"is of {one.org}, who runs the accelerator of {card.site}: {NO_COLLUSION}"
            yield Problem(file, words)
        if one.org == card.org:
            words = f"is of {card.site}'s own organisation, which sees what its enclave sends"
            yield Problem(file, words)


def pads_of(job: JobFile, sites: Sites, pads: Pads) -> dict[str, PadAccelerator]:
    """Each site's, when there are no faults.

    Args:
        sites: site -> card.
        pads: file -> card.
    """
    if job.protection.pads == "enclave":
        return {}
    return {
        site: PadAccelerator(
            operator=one.org,
            accelerator=sites[site].accelerator_operator or "",
            key=one.pad_key,
            operators="independent",
        )
        for one in pads.values()
        for site in one.sites
    }
