"""A job's manifest from its parties' cards, where nobody holds another's data or key.

    made = from_cards(load_shared(path), cards)      # raises a CardError with all that is wrong
    manifest = propose(made.resolution, made.participants, made.policies, network=made.network)

Trust domain: whoever builds a manifest; every organisation compares it with what it has itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from sealtune.attest.policy import AppraisalPolicy
from sealtune.data.site import check_spelling
from sealtune.errors import CardError, DataError, Problem
from sealtune.job.card import CoordinatorCard, PadAcceleratorCard, ServerCard, SiteCard
from sealtune.job.job_file import JobFile
from sealtune.job.manifest import Participant
from sealtune.job.network import NetworkIdentity
from sealtune.job.pad_operators import PadAccelerator
from sealtune.job.printable import printable
from sealtune.job.sections import faults
from sealtune.model.fit import fitting_task
from sealtune.plan.card_faults import Cards, each_fault, joint_faults, of
from sealtune.plan.card_pads import pads_of
from sealtune.plan.card_policies import policies_of
from sealtune.plan.holdings import identify_model
from sealtune.plan.planner import make_plan
from sealtune.plan.resolve import Resolution


@dataclass(frozen=True)
class Gathered:
    """A job with everything decided that cards decide.

    Attributes:
        resolution: the job; its plan is made from the model here.
        participants: organisations, in the order of their first site.
        network: where its hosts meet.
        pad_accelerators: each site's, in a job that asks for them.
        policies: role -> accepted evidence, of roles whose cards propose some.
    """

    resolution: Resolution
    participants: tuple[Participant, ...]
    network: NetworkIdentity
    pad_accelerators: dict[str, PadAccelerator]
    policies: dict[str, AppraisalPolicy]


def from_cards(
    job: JobFile, cards: Cards, unread: Sequence[Problem] = (), *, at: datetime | None = None
) -> Gathered:
    """Make a job of its parties' cards.

    Args:
        job: with the place of the model.
        cards: file -> card, whose signature was verified.
        unread: files that hold no card, or an altered one.
        at: time; default: now.

    Raises:
        CardError: lists everything that is wrong, each with its card.
        ModelError, ConfigError: the model, or the label words, cannot be used.
    """
    model = identify_model(job.model)
    problems = [*unread, *each_fault(job, cards, model, at), *joint_faults(job, cards)]
    labels, found = _job_labels(job, cards)
    policies, weak = policies_of(job.job.rules, cards)
    problems += [*found, *weak]
    network = None if problems else _network(cards, problems)
    if network is None:
        raise CardError(
            problems,
            hint="each party makes its own card with `sealtune site describe`, `server describe` "
            "or `coordinator describe`",
        )
    sites = {card.site: card for card in of(cards, SiteCard).values()}
    fitting_task(job, labels)
    resolution = Resolution(
        job=job,
        labels=labels,
        plan=make_plan(job, len(labels) or None),
        model=model,
        data={name: sites[name].data for name in job.sites.names},
        majority_class=None,
    )
    people: dict[str, list[SiteCard]] = {}
    for name in job.sites.names:
        people.setdefault(sites[name].org, []).append(sites[name])
    participants = tuple(
        Participant(org=org, key=own[0].key, sites=tuple(card.site for card in own))
        for org, own in people.items()
    )
    pads = pads_of(job, sites, of(cards, PadAcceleratorCard))
    return Gathered(resolution, participants, network, pads, policies)


def _job_labels(job: JobFile, cards: Cards) -> tuple[tuple[str, ...], list[Problem]]:
    """The classes of the job in their order, from all sites' training rows."""
    if job.model.task == "causal-lm":
        return (), []
    if job.data.labels is not None:
        return job.data.labels, []
    sites = of(cards, SiteCard)
    labels = tuple(sorted({label for card in sites.values() for label in card.labels}))
    problems = [
        Problem(file, f"has test rows of label {shown}, which no site's training rows have")
        for file, card in sites.items()
        if (shown := _quoted(set(card.labels_only_in_test) - set(labels)))
    ]
    try:
        check_spelling(job.data.label, labels)
    except DataError as error:
        problems.append(Problem("labels", printable(str(error.message), 1000)))
    if sites and len(labels) < 2:
        words = "a classifier needs at least two classes; all sites together have "
        problems.append(Problem("labels", words + (_quoted(labels) or "none")))
    return labels, problems


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(repr(printable(label, 40)) for label in sorted(labels)[:8])


def _network(cards: Cards, problems: list[Problem]) -> NetworkIdentity | None:
    """The job's network; what is wrong with it is added to ``problems``."""
    (hub,), (server,) = (
        of(cards, CoordinatorCard).values(),
        of(cards, ServerCard).values(),
    )
    try:
        return NetworkIdentity(
            sites_at=hub.sites_at,
            server_at=hub.server_at,
            certificate=hub.certificate,
            server_certificate=server.server_certificate,
            nodes={card.site: card.node_key for card in of(cards, SiteCard).values()},
        )
    except ValidationError as error:
        problems += faults(error, "network")
        return None
