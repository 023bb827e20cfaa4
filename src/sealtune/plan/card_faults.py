"""What is wrong with the cards of a job: each alone, and all together.

Trust domain: whoever builds a manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TypeVar

from sealtune.attest.measure import program_digest
from sealtune.errors import Problem
from sealtune.job.card import (
    Card,
    CoordinatorCard,
    PadAcceleratorCard,
    ServerCard,
    SiteCard,
    settings_digest,
    time_fault,
)
from sealtune.job.job_file import JobFile
from sealtune.job.manifest import ModelIdentity
from sealtune.plan.card_pads import pad_faults

Cards = Mapping[str, Card]  # by the name of its file
C = TypeVar("C", SiteCard, ServerCard, CoordinatorCard, PadAcceleratorCard)


def of(cards: Cards, kind: type[C]) -> dict[str, C]:
    """Those of one kind."""
    return {file: card for file, card in cards.items() if isinstance(card, kind)}


def each_fault(
    job: JobFile, cards: Cards, model: ModelIdentity, at: datetime | None
) -> Iterator[Problem]:
    """What is wrong with single cards."""
    settings = settings_digest(job.settings, job.data.labels)
    rules = job.job.rules
    for file, card in cards.items():
        if late := time_fault(card, at):
            yield Problem(file, late)
        if card.settings != settings:
            yield Problem(file, "was made for a job of other settings than this job file's")
        if not isinstance(card, SiteCard | ServerCard):
            continue
        program = rules.programs[card.role]
        if card.code != {program: program_digest(program).hex()}:
            yield Problem(file, f"has other code of {program} than the sealtune installed here")
        wanted = job.protection.evidence(card.role) if card.role in rules.attested else None
        shown = card.evidence and card.evidence.kind
        if shown != wanted:
            words = f"shows {shown or 'no'} evidence; the job asks for {wanted or 'none'}"
            yield Problem(file, words)
        if isinstance(card, SiteCard):
            yield from _of_site(job, file, card, model)


def _of_site(job: JobFile, file: str, card: SiteCard, model: ModelIdentity) -> Iterator[Problem]:
    if card.site not in job.sites.names:
        words = f"is of site {card.site}; the job has {', '.join(job.sites.names)}"
        yield Problem(file, words)
    for what in ("digest", "tokenizer_digest"):
        if getattr(card.model, what) != getattr(model, what):
            words = "tokenizer" if what == "tokenizer_digest" else "model"
            yield Problem(file, f"has another {words} than lies here")
    if not card.data.train_rows:
        yield Problem(file, "has no training rows")
    if (job.data.labels is not None or job.model.task == "causal-lm") and (
        card.labels or card.labels_only_in_test
    ):
        yield Problem(file, "states labels, which the job does not take from cards")


def joint_faults(job: JobFile, cards: Cards) -> Iterator[Problem]:
    """Each party has one card, and no two nodes one key."""
    sites = of(cards, SiteCard)
    for what, files in (
        *((f"site {name}", [f for f, c in sites.items() if c.site == name])
          for name in job.sites.names),
        ("the server", list(of(cards, ServerCard))),
        ("the coordinator", list(of(cards, CoordinatorCard))),
    ):  # fmt: skip
        if not files:
            yield Problem(what, "has no card")
        elif len(files) > 1:
            yield Problem(what, f"has several cards: {', '.join(files)}")
    yield from _shared({file: card.node_key for file, card in sites.items()}, "node key")
    yield from _people({**sites, **of(cards, PadAcceleratorCard)})
    yield from pad_faults(job, sites, of(cards, PadAcceleratorCard))
    if sites and not any(card.data.test_rows for card in sites.values()):
        yield Problem("sites", "have no test rows at all: without them nothing can be measured")


def _people(cards: Mapping[str, SiteCard | PadAcceleratorCard]) -> Iterator[Problem]:
    """An organisation has one key, and a key one organisation."""
    for one, other in (("org", "key"), ("key", "org")):
        seen: dict[str, tuple[str, str]] = {}
        for file, card in cards.items():
            who, what = getattr(card, one), getattr(card, other)
            first, known = seen.setdefault(who, (file, what))
            if what != known:
                named = f"organisation {who}" if one == "org" else "the same key"
                words = "another key" if one == "org" else "another organisation"
                yield Problem(file, f"has {named} as {first}, and {words}")


def _shared(values: Mapping[str, str], what: str) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for file, value in values.items():
        if (first := seen.setdefault(value, file)) != file:
            yield Problem(file, f"has the same {what} as {first}")
