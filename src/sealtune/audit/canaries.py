"""Memorised canaries: secret rows that no other row resembles, and whether the adapter tells them.

A canary is a text of random words with a random class. Who has the adapter, and knows the text,
asks for the class: exposure is ``log2 C - log2 rank`` of the secret one among C (Carlini et al.,
arXiv 1802.08232, with classes for candidates). All classes are as frequent, so that what the model
learns of canaries in general tells of none.

The proven epsilon needs one training (Steinke et al., arXiv 2305.08846): each canary is in it by
the toss of a coin, the attacker guesses the tosses of those that look surest, and so many right
guesses would be too unlikely under a smaller epsilon. Above what was stated, the noise fails.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray

from sealtune.audit import example_privacy
from sealtune.audit.adapter import Schedule, Trainer, frozen, log_odds_of
from sealtune.audit.attack import Attack, Report
from sealtune.audit.example_privacy import Measured, allowed_exposure, budgets, findings, stated
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.last_layer import ABSENT, States, Top
from sealtune.audit.statistics import LEVEL, mean
from sealtune.audit.subject import Subject
from sealtune.data.site import Example
from sealtune.job.federated_sections import PrivacySpec
from sealtune.model.fit import fitting_task
from sealtune.model.tasks import Task

NAME = "canaries"
ROWS, LEAST_ROWS = 200, 20
COUNT, WORDS = 300, 8
REPEATS = (1, 4)  # how often a canary stands among the rows
EPOCHS, BATCHES, RATE = 20, 5, 5e-3
STATED = 1.0  # epsilon of the proof, at most: so few guesses prove no more than 3
_MOST = 30.0  # epsilon that is looked for

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def run(subject: Subject, report: Report) -> list[Finding]:
    """See ``Attack``."""
    report(0.0, "outputs of the frozen model")
    rows = [row for data in subject.sites.values() for row in data.train]
    some = np.random.default_rng(subject.seed).permutation(len(rows))
    some = some[: subject.scaled(ROWS, LEAST_ROWS)]
    counts = group_sizes(subject.scaled(COUNT, 240), len(subject.labels))
    task = fitting_task(subject.job, subject.labels)
    secret = [make_canaries(task, count, subject.seed + i) for i, count in enumerate(counts)]
    top, (ordinary, *groups) = frozen(subject, [rows[i] for i in some], *secret)
    report(0.4, "adapters that have seen canaries")
    found = [
        finding
        for measured in _exposures(top, ordinary, groups, subject)
        for finding in findings(subject, NAME, measured)
    ]
    report(0.7, "an epsilon that can be proven")
    return [*found, _proof(top, ordinary, reduce(States.joined, groups), subject)]


def group_sizes(count: int, classes: int) -> tuple[int, int]:
    """Canaries for each of ``REPEATS``: about three quarters and one, of each class as many."""
    once, often = (max(1, part // classes) * classes for part in (count * 3 // 4, count // 4))
    return once, often


def _applies(subject: Subject) -> str:
    return example_privacy.applies(subject, LEAST_ROWS)


def make_canaries(task: Task, count: int, seed: int) -> list[Example]:
    """Texts of random words of the model's vocabulary; of each class as many, in random order."""
    draw, tokenizer = np.random.default_rng([seed, count]), task.tokenizer
    ids = draw.integers(len(tokenizer), size=40 * count * WORDS)
    words = (tokenizer.decode([int(i)]).strip() for i in ids)
    letters = [word for word in words if word.isalpha()]
    texts = (" ".join(letters[i * WORDS : (i + 1) * WORDS]) for i in range(count))
    classes = draw.permutation(np.arange(count) % len(task.labels))
    return [Example(text, int(own)) for text, own in zip(texts, classes, strict=True)]


def schedule(rows: int) -> Schedule:
    """Enough to learn so many rows by heart."""
    return Schedule(EPOCHS * BATCHES, max(1, rows // BATCHES), RATE)


def _exposures(
    top: Top, ordinary: States, groups: Sequence[States], subject: Subject
) -> list[Measured]:
    """Of canaries that were inserted so many times, all in one training."""
    inserted = [g for g, times in zip(groups, REPEATS, strict=True) for _ in range(times)]
    data, classes = reduce(States.joined, [ordinary, *inserted]), len(top.labels)
    trainer = Trainer(top, schedule(len(data)))
    bits: list[list[Rate]] = []
    amounts = [None, *(trainer.noise(privacy, len(data)) for privacy in budgets(subject))]
    for noise in amounts:
        trainer.train(data, subject.seed, noise)
        bits.append([mean(exposures(top, group), seed=subject.seed) for group in groups])
    chance = float(np.mean([math.log2(classes / rank) for rank in range(1, classes + 1)]))
    return [
        Measured(
            f"inserted {times} times" if times > 1 else "inserted once",
            f"bits of exposure of a secret class, of {math.log2(classes):.1f}",
            chance,
            rates[0],
            rates[1:],
            allowed_exposure(classes, times),
            [""] * (len(rates) - 1),
        )
        for times, *rates in zip(REPEATS, *bits, strict=True)
    ]


def exposures(top: Top, canaries: States) -> Floats:
    """Bits for each canary; of several classes with one score, the secret one comes last."""
    scores = top.scores(canaries)
    own = scores.gather(1, canaries.labels[:, None])
    rank = (scores >= own).sum(1).double()
    bits: Floats = (math.log2(scores.shape[1]) - rank.log2()).numpy()
    return bits


def _proof(top: Top, ordinary: States, canaries: States, subject: Subject) -> Finding:
    """Largest epsilon that guesses exclude, against the stated one."""
    own = budgets(subject)[-1]
    epsilon = min(STATED, own.epsilon or STATED)
    privacy = own.model_copy(update={"epsilon": epsilon})
    plain, noisy = (
        proven(top, ordinary, canaries, subject.seed, privacy, noisy=noisy)
        for noisy in (False, True)
    )
    return Finding(
        NAME,
        f"proven epsilon, {stated(subject, epsilon)}",
        "epsilon that right guesses of which canaries were in the training show",
        epsilon,
        plain,
        noisy,
        note=f"the lower end is proven, at delta {privacy.delta:g}; this tests the noise itself",
    )


def proven(
    top: Top,
    ordinary: States,
    canaries: States,
    seed: int,
    privacy: PrivacySpec,
    *,
    noisy: bool,
) -> Rate:
    """Epsilon of one training with each canary in it by the toss of a coin."""
    inside = np.random.default_rng([seed, len(canaries)]).random(len(canaries)) < 0.5
    labels = torch.where(torch.from_numpy(inside), canaries.labels, ABSENT)
    data = ordinary.joined(canaries.relabelled(labels))
    trainer = Trainer(top, schedule(len(data)))
    trainer.train(data, seed, trainer.noise(privacy, len(data)) if noisy else None)
    scores = top.scores(canaries)
    apart = scores - scores.mean(0)  # less what all canaries have in common
    return epsilon_of(log_odds_of(apart, canaries.labels), inside, privacy.delta)


def epsilon_of(scores: Floats, inside: Bools, delta: float) -> Rate:
    """Half of the canaries are guessed: those of the highest scores in, of the lowest out.

    The lower end is that of ``LEVEL``, one-sided; for the upper one, what was right is wrong.
    """
    count, order = len(scores), np.argsort(scores, kind="stable")
    each = max(1, count // 4)
    right = int((~inside[order[:each]]).sum() + inside[order[-each:]].sum())
    guesses = 2 * each
    value = math.log((right + 0.5) / (guesses - right + 0.5))
    low = _excluded(right, guesses, count, delta)
    high = -_excluded(guesses - right, guesses, count, 0.0, least=-_MOST)
    return Rate(value, min(low, value), max(high, value), guesses)


def _excluded(right: int, guesses: int, count: int, delta: float, least: float = 0.0) -> float:
    """The largest epsilon under which so many right guesses are too unlikely; ``least``: none."""
    low, high = least, _MOST
    if _probability(low, right, guesses, count, delta) > 1 - LEVEL:
        return low
    while high - low > 1e-4:
        middle = (low + high) / 2
        too_unlikely = _probability(middle, right, guesses, count, delta) <= 1 - LEVEL
        low, high = (middle, high) if too_unlikely else (low, middle)
    return low


def _probability(epsilon: float, right: int, guesses: int, count: int, delta: float) -> float:
    """Of so many right guesses or more, at most (Steinke et al., theorem 5.2)."""
    exactly = _binomial(guesses, 1 / (1 + math.exp(-epsilon)))
    fewer = exactly[:right][::-1].cumsum()  # by one, by up to two, ...
    spread = float((fewer / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, float(exactly[right:].sum()) + 2 * count * delta * spread)


def _binomial(trials: int, share: float) -> Floats:
    """Probability of each number of successes, 0 to ``trials``."""
    k = np.arange(trials + 1)
    ways = np.array([math.lgamma(i + 1) for i in k])
    logs = ways[-1] - ways - ways[::-1] + k * math.log(share) + k[::-1] * math.log1p(-share)
    found: Floats = np.exp(logs)
    return found


CANARIES = Attack(
    name=NAME,
    what="what class had this secret row? and which secret rows were there at all?",
    adversary="whoever has the adapter, and the text of such a row",
    run=run,
    applies=_applies,
)
