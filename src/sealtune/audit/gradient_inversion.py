"""Tokens out of updates: a span check on one site's update, and on what is left to an attacker.

Rows are dealt out to a dozen pretended sites, and as many again stay untouched. Each site makes an
update from the same adapter, as in a second round: a step of one batch, or several steps. For each,
the tokens that only its texts have are ranked among those that only untouched texts of the same
number have: what is right half the time knows nothing of the site.

    sealed       what the network carries, or a server's operator has, of one site's update
    masked       what the server of secure aggregation has of it
    aggregate    what every site is sent: it tells tokens of some site's texts, a limit
    whose        in the aggregate, the tokens of one site against another's in it
    with noise   the aggregate under differential privacy of sites

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sealtune.audit.attack import Attack, Report
from sealtune.audit.finding import Finding, Rate
from sealtune.audit.miniature import Miniature
from sealtune.audit.sealed_view import by_force, seal
from sealtune.audit.span_check import SpanCheck
from sealtune.audit.statistics import mean
from sealtune.audit.subject import Subject
from sealtune.data.site import Example
from sealtune.job.settings import Settings
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.rules.private_mean import PrivateMean
from sealtune.model.texts import Texts
from sealtune.model.trainable import load_trainable_state, trainable_state, write_tensors
from sealtune.model.training import local_round
from sealtune.secure_sum.ring import FixedPoint, add_mask

NAME = "gradient-inversion"
MEASURE = "area under the ROC curve: tokens of a site's texts against those of texts unused"
WHOSE = "area under the ROC curve: tokens of a site's texts against those of another's in the sum"
SITES = 12
STEPS = 4  # of several
CHANCE = 0.5
AGGREGATES = (3, SITES)  # sites
_LARGEST = 1e6
_NOISE = 1.0  # deviation of the noise in a sum of updates, over the norm of one
Update = dict[str, NDArray[np.float32]]


class Trial(NamedTuple):
    """One site: its update, its texts' tokens, and those of untouched texts; sets of token ids."""

    update: Update
    own: frozenset[int]
    untouched: frozenset[int]


@dataclass(frozen=True)
class Trials:
    """Updates of all sites from one adapter.

    Attributes:
        before: the adapter.
        of: each site's.
        check: the attack.
        places: token -> its place among the candidates.
    """

    before: Update
    of: Sequence[Trial]
    check: SpanCheck
    places: Mapping[int, int]

    def against_unused(self, updates: Sequence[Mapping[str, NDArray[Any]]]) -> Rate:
        """How well ``updates``, one for each site, tell its tokens from those of unused texts."""
        return self._rate(updates, [trial.untouched for trial in self.of])

    def against_next(self, updates: Sequence[Mapping[str, NDArray[Any]]]) -> Rate:
        """The same, from the tokens of the next site."""
        return self._rate(updates, [self.of[i - len(self.of) + 1].own for i in range(len(self.of))])

    def aggregate(self, first: int, sites: int) -> Update:
        """Mean of so many sites' updates, all of a number of rows."""
        some = [self.of[(first + i) % len(self.of)].update for i in range(sites)]
        return {n: np.mean([one[n] for one in some], axis=0, dtype=np.float32) for n in some[0]}

    def _rate(
        self, updates: Sequence[Mapping[str, NDArray[Any]]], others: Sequence[frozenset[int]]
    ) -> Rate:
        found = []
        for trial, update, other in zip(self.of, updates, others, strict=True):
            scores = self.check.scores(update)
            mine, theirs = (
                scores[[self.places[token] for token in sorted(tokens)]]
                for tokens in (trial.own - other, other - trial.own)
            )
            if len(mine) and len(theirs):
                found.append(_auc(mine, theirs))
        return mean(found)


def trials(small: Miniature, steps: int, *, sites: int = SITES) -> Trials:
    """Have pretended sites train.

    Args:
        steps: of each site's round.
        sites: how many; as many parts of the rows again stay untouched.
    """
    rows = _shuffled(small)
    size = max(1, min(steps * small.job.train.batch_size, len(rows) // (2 * sites + 1)))
    texts = [small.texts(rows[i * size : (i + 1) * size]) for i in range(2 * sites + 1)]
    model = small.tuned(texts[-1])
    first = {name: tensor.clone() for name, tensor in trainable_state(model).items()}

    def trained(start: Mapping[str, torch.Tensor], data: Texts, site: str, count: int) -> None:
        load_trainable_state(model, start)
        spec = small.job.train.model_copy(update={"steps_per_round": count})
        seed = small.job.job.seed
        local_round(model, small.task, data, spec, seed=seed, round=1, site=site)

    trained(first, texts[-1], "before", STEPS)  # B is zero at the start, and A's gradient with it
    start = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    found = []
    for number in range(sites):
        trained(start, texts[number], f"site {number}", steps)
        moved = {n: (t - start[n]).numpy().copy() for n, t in trainable_state(model).items()}
        own, untouched = (frozenset(texts[i].ids.tolist()) for i in (number, sites + number))
        found.append(Trial(moved, own, untouched))
    tokens = sorted({int(token) for one in texts for token in one.ids})
    load_trainable_state(model, first)  # the attacker's model: public
    check = SpanCheck(model, torch.tensor(tokens))
    before = {name: tensor.numpy() for name, tensor in start.items()}
    return Trials(before, found, check, {token: i for i, token in enumerate(tokens)})


def sealed(update: Update) -> Update:
    """What an update is to whoever carries it, or keeps it in a sealed file."""
    body = write_tensors({name: torch.from_numpy(one) for name, one in update.items()})
    seen = by_force(seal(body))
    start = 8 + int.from_bytes(body[:8], "little")  # names and places are public: the plan's
    places = json.loads(body[8:start])
    return {name: _floats(seen, start, places[name], one.shape) for name, one in update.items()}


def masked(update: Update) -> Update:
    """What one site's update is to the server of a secure sum, which reads it as if unmasked."""
    body = b"".join(one.tobytes() for one in update.values())
    codes, found = FixedPoint(_LARGEST, 1), {}
    for name, one in update.items():
        vector = codes.encode(one.ravel(), 1)
        add_mask(vector, hashlib.sha256(name.encode() + body).digest(), 1)
        found[name] = codes.mean(vector, 1).reshape(one.shape).astype(np.float32)
    return found


def noisy(before: Update, updates: Sequence[Update], settings: Settings) -> Update:
    """What ``privacy.unit = "site"`` makes of the aggregate: clipped to the median norm, noise."""
    norms = [float(np.sqrt(sum(float((t**2).sum()) for t in one.values()))) for one in updates]
    clip = float(np.median(norms))
    shapes = {name: tensor.shape for name, tensor in before.items()}
    names = tuple(f"site-{i}" for i in range(len(updates)))
    sites = settings.sites.model_copy(update={"names": names})
    settings = settings.model_copy(update={"sites": sites})
    context = RoundContext(shapes, before, settings, dict.fromkeys(names, 1), clip, Path())
    rule = PrivateMean(context, _NOISE * clip)
    for name, update, norm in zip(names, updates, norms, strict=True):
        factor = np.float32(min(1.0, clip / norm))
        rule.add(name, {n: factor * t for n, t in update.items()}, 1)
    return {name: after - before[name] for name, after in rule.result().items()}


def findings(of: Trials, what: str, settings: Settings) -> Iterator[Finding]:
    """All that is compared; ``what`` says how an update was made."""
    single = [trial.update for trial in of.of]
    alone, in_sum = of.against_unused(single), of.against_next(single)
    sites = len(single)

    def found(variant: str, measure: str, rate: Rate, note: str, *, limit: bool = False) -> Finding:
        baseline = in_sum if measure is WHOSE else alone
        name = f"{what}, {variant}"
        return Finding(NAME, name, measure, CHANCE, baseline, rate, limit=limit, note=note)

    hidden = masked if settings.job.trust == "secure-aggregation" else sealed
    rate = of.against_unused([hidden(one) for one in single])
    note = "one site's update as others than its reader have it"
    yield found(hidden.__name__, MEASURE, rate, note)
    for count in sorted({min(count, sites) for count in AGGREGATES}):
        means = [of.aggregate(first, count) for first in range(sites)]
        note = "who gets the joint adapter learns of the sites' texts: add noise, or more sites"
        rate = of.against_unused(means)
        yield found(f"aggregate of {count}", MEASURE, rate, note, limit=True)
        note = "sites of the same number of rows"
        yield found(f"aggregate of {count}, whose", WHOSE, of.against_next(means), note)
    noise = [noisy(of.before, single, settings) for _ in single]
    note = f"noise of {_NOISE:g} times the norm to which each update is clipped"
    yield found(f"aggregate of {sites} with noise", MEASURE, of.against_unused(noise), note)


def _auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """How often a member's score is larger."""
    above = np.sign(members[:, None] - others)
    return float((above.mean() + 1) / 2)


def _floats(seen: bytes, start: int, place: Mapping[str, Any], shape: Sequence[int]) -> Any:
    """A tensor of a safetensors file, read from bytes that may be none."""
    begin, end = place["data_offsets"]
    numbers = np.frombuffer(seen[start + begin : start + end], "<f4").reshape(shape)
    return np.nan_to_num(numbers, nan=0.0, posinf=_LARGEST, neginf=-_LARGEST).clip(
        -_LARGEST, _LARGEST
    )


def _shuffled(small: Miniature) -> list[Example]:
    """All rows, training and test, of all sites; in an order that follows from the job's seed."""
    rows = [row for data in small.sites.values() for row in (*data.train, *data.test)]
    order = np.random.default_rng(small.job.job.seed).permutation(len(rows))
    return [rows[i] for i in order]


# --- the attack on a run ------------------------------------------------------------------------


def _applies(subject: Subject) -> str:
    if subject.job.split is not None:
        return "no update leaves a site of a split job"
    return "" if subject.job.tuning.lora is not None else "the job tunes no LoRA"


def _run(subject: Subject, report: Report) -> list[Finding]:
    small = subject.miniature(blocks=4, train=400, test=200)
    found: list[Finding] = []
    kinds = {"one step": 1} if subject.quick else {"one step": 1, f"{STEPS} steps": STEPS}
    for number, (what, steps) in enumerate(kinds.items()):
        report(number / len(kinds), what)
        found += findings(trials(small, steps), what, small.job)
    return found


GRADIENT_INVERSION = Attack(
    NAME,
    "Looks for a site's tokens in its update and in the aggregate, by how much of them lies in the "
    "span of the rows of LoRA's A.",
    "server or network, with one site's update; any site, with the joint adapter",
    _run,
    _applies,
)
