"""Poisoning through one site of five: a backdoor, and wrong labels, against each aggregator.

All rows are dealt out to five sites, which train LoRA on the last linear layer and the head of the
run's first blocks (``last_layer``). The site of middling size attacks in every round:

    backdoor      half of its rows end in a rare word and are labelled with one class; success is
                  the share of other classes' test rows that get this class once they end in it
    labels        every class is labelled as another; success is the share of test rows that get
                  the label taught

It sends its update as it is, or enlarged by what its part in the mean takes off (model replacement:
Bagdasaryan et al., AISTATS 2020, arXiv 1807.00459), against the server enclave no further than its
check of single numbers lets pass; what succeeds better counts, and an enlarged backdoor is shown
apart. Without protection a server averages what comes. Chance is what the same rows get where
nobody attacks, under the same aggregator.

A backdoor in an update like any other succeeds against every rule, though less against
``multi-krum``, which bears an enlarged one; wrong labels succeed against both means. These are
limits, and the documents state them.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sealtune.audit.attack import Attack, Report
from sealtune.audit.attacked_rounds import (
    AGGREGATORS,
    DEFAULT,
    PLAIN,
    Seen,
    Server,
    middling,
    numbers,
    play,
    settings_of,
)
from sealtune.audit.attacked_rounds import Attack as Attacker
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.last_layer import States, Top, applies, states_of
from sealtune.audit.miniature import Miniature
from sealtune.audit.statistics import share
from sealtune.audit.subject import Subject
from sealtune.data.partition import partition
from sealtune.data.site import Example
from sealtune.methods.federated.adapter import Tensors
from sealtune.model.load import load_model

NAME = "poisoning"
BACKDOOR, LABELS, ENLARGED = "backdoor", "labels", "backdoor enlarged"
MEASURES = {
    BACKDOOR: "share of other classes' test rows that the trigger moves to the attacker's class",
    LABELS: "share of test rows answered with the label that the attacker teaches",
}
SITES = ("north", "south", "east", "west", "coast")
TRIGGER = " cf"  # of no meaning
ALPHA = 5.0  # of the Dirichlet distribution that rows are dealt out by
ROUNDS, STEPS, BATCH, RATE = 10, 5, 16, 4e-3
_BLOCKS = 8  # of the model
_TARGET = 0
PROTECTED = tuple(name for name in AGGREGATORS if name != PLAIN)
# where an attack is known to succeed: docs/limitations.md
LIMITS: Mapping[str, tuple[str, ...]] = {
    DEFAULT: (BACKDOOR, ENLARGED, LABELS),
    "exact": (BACKDOOR, ENLARGED, LABELS),
    "median": (BACKDOOR, ENLARGED),
    "trimmed-mean": (BACKDOOR, ENLARGED),
    "multi-krum": (BACKDOOR,),
}


@dataclass(frozen=True)
class Ground:
    """What is played on.

    Attributes:
        top: what is tuned.
        first: its first values.
        sites: each one's rows.
        marked: the attacker's rows with the trigger.
        test: all sites' test rows.
        marked_test: these with the trigger.
        seed: of the job.
    """

    top: Top
    first: Tensors
    sites: Mapping[str, States]
    marked: States
    test: States
    marked_test: States
    seed: int

    @property
    def attacker(self) -> str:
        """Who attacks."""
        return middling(self.sites)

    def poisoned(self, attack: str) -> dict[str, States]:
        """The sites' rows, the attacker's with what it makes of them."""
        own, classes = self.sites[self.attacker], len(self.top.labels)
        if attack == LABELS:
            return {**self.sites, self.attacker: own.relabelled(_taught(own.labels, classes))}
        target = torch.full_like(own.labels, _TARGET)
        return {**self.sites, self.attacker: own.joined(self.marked.relabelled(target))}

    def successes(self, attack: str) -> Rate:
        """Of the adapter that is on ``top``."""
        if attack == LABELS:
            taught = _taught(self.test.labels, len(self.top.labels))
            hits = self.top.answers(self.test) == taught
            return share(int(hits.sum()), len(hits))
        others = self.test.labels != _TARGET
        hits = self.top.answers(self.marked_test)[others] == _TARGET
        return share(int(hits.sum()), len(hits))


def ground(small: Miniature) -> Ground:
    """Run the model below its last layer on all rows, with and without the trigger."""
    train = [row for data in small.sites.values() for row in data.train]
    test = [row for data in small.sites.values() for row in data.test]
    names = [small.labels[row.label or 0] for row in train]
    seed, model = small.job.job.seed, load_model(small.job.model, len(small.labels))
    dealt, _ = partition(names, names, len(SITES), scheme="dirichlet", alpha=ALPHA, seed=seed)

    def states(rows: Sequence[Example], trigger: str = "") -> States:
        marked = [Example(row.text + trigger, row.label, row.row) for row in rows]
        return states_of(model, small.texts(marked))

    every = states(train)
    sites = {site: every.part(rows.tolist()) for site, rows in zip(SITES, dealt, strict=True)}
    own = [train[i] for i in dealt[SITES.index(middling(sites))]]
    top = Top(small.job.model, small.labels, seed)
    marked, marked_test = states(own, TRIGGER), states(test, TRIGGER)
    return Ground(top, numbers(top), sites, marked, states(test), marked_test, seed)


def played(
    on: Ground, aggregator: str, attack: str = "", *, enlarged: bool = False, rounds: int = ROUNDS
) -> Seen:
    """A whole job; the joint adapter is on ``on.top`` in the end.

    Args:
        attack: ``backdoor`` or ``labels``; empty: nobody attacks.
        enlarged: the attacker's update outweighs the others', as far as passes.
    """
    settings = settings_of(
        aggregator,
        SITES,
        seed=on.seed,
        rounds=rounds,
        steps_per_round=STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
    )
    rows = {site: len(own) for site, own in on.sites.items()}
    plain, attacker = aggregator == PLAIN, Attacker(on.attacker)
    if enlarged:
        factor = sum(rows.values()) / rows[on.attacker]
        attacker = Attacker(on.attacker, factor, "" if plain else "within")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(settings, on.first, rows, Path(folder), plain=plain)
        return play(server, on.top, on.poisoned(attack) if attack else on.sites, attacker)


class Sent(NamedTuple):
    """What came of one way to send poisoned updates; ``right``: answers of the joint adapter."""

    successes: Rate
    right: float
    seen: Seen


def both_ways(on: Ground, aggregator: str, attack: str, rounds: int = ROUNDS) -> tuple[Sent, Sent]:
    """The update as it is, and enlarged."""
    found = []
    for enlarged in (False, True):
        seen = played(on, aggregator, attack, enlarged=enlarged, rounds=rounds)
        found.append(Sent(on.successes(attack), on.top.right(on.test), seen))
    return found[0], found[1]


def findings(
    on: Ground,
    aggregators: Sequence[str] = PROTECTED,
    attacks: Sequence[str] = tuple(MEASURES),
    *,
    rounds: int = ROUNDS,
) -> Iterator[Finding]:
    """Every attack against every aggregator; the baseline is ``plain``."""
    baseline = {one: _best(both_ways(on, PLAIN, one, rounds)).successes for one in attacks}
    for aggregator in aggregators:
        played(on, aggregator, rounds=rounds)
        right = on.top.right(on.test)
        chance = {attack: on.successes(attack).value for attack in attacks}
        for attack in attacks:
            ways = both_ways(on, aggregator, attack, rounds)
            apart = {ENLARGED: ways[1]} if attack == BACKDOOR else {}
            for name, sent in {attack: _best(ways), **apart}.items():
                yield Finding(
                    NAME,
                    f"{name}, {aggregator}",
                    MEASURES[attack],
                    chance[attack],
                    baseline[attack],
                    sent.successes,
                    limit=name in LIMITS.get(aggregator, ()),
                    note=f"right answers {right:.1%} without the attack and {sent.right:.1%} with "
                    f"it; attacker flagged in {sent.seen.flagged:.0%} of the rounds",
                )


def _best(ways: Sequence[Sent]) -> Sent:
    return max(ways, key=lambda one: one.successes.value)


def _taught(labels: Tensor, classes: int) -> Tensor:
    """The label that is taught in the place of each."""
    return (labels + 1) % classes


# --- the attack on a run ------------------------------------------------------------------------


def _applies(subject: Subject) -> str:
    if subject.job.split is not None:
        return "no updates are averaged in a split job"
    if subject.job.job.trust == "secure-aggregation":
        return "under secure aggregation nothing checks single updates: it is the baseline itself"
    return applies(subject)


def _run(subject: Subject, report: Report) -> list[Finding]:
    small = subject.miniature(blocks=_BLOCKS, train=subject.scaled(300), test=subject.scaled(300))
    report(0.0, "the frozen layers below")
    on, found = ground(small), list[Finding]()
    for one in findings(on, rounds=subject.scaled(ROUNDS, 3)):
        found.append(one)
        report(len(found) / (len(PROTECTED) * (len(MEASURES) + 1)), one.variant)
    return found


POISONING = Attack(
    NAME,
    "Trains a backdoor, and wrong labels, through one site of five, against each way to aggregate.",
    "a site that takes part",
    _run,
    _applies,
)
