"""Rounds of a federated job in which one of the sites attacks, on ``last_layer``'s small top.

    server = Server(settings, plain=False, first, rows, folder)
    play(server, top, sites, Attack("north", factor=-1.0))
    top.logits(batch)                        # the joint adapter is on it

Checks, clipping, discounts and rules are those of the server enclave; a ``plain`` server averages
what comes, by rows, and does nothing else.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sealtune.audit.last_layer import TARGETS, States, Top
from sealtune.errors import ModelError, UpdateBoundError
from sealtune.job.settings import Settings
from sealtune.methods.federated.adapter import Tensors, write_adapter
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.norm_bound import FIRST_RATIO
from sealtune.methods.federated.ranks import Outgoing
from sealtune.methods.federated.rules.fedavg import FedAvg
from sealtune.methods.federated.training_round import TrainingRound
from sealtune.methods.federated.update_bound import UpdateBound
from sealtune.model.trainable import load_trainable_state, trainable_state
from sealtune.model.training import local_round

PLAIN, DEFAULT = "plain", "default"
AGGREGATORS: dict[str, dict[str, Any]] = {
    PLAIN: {"norm_bound": "none", "outliers": "report"},
    DEFAULT: {},
    "exact": {"rule": "exact"},
    "median": {"rule": "median"},
    "trimmed-mean": {"rule": "trimmed-mean"},
    "multi-krum": {"rule": "multi-krum"},
}
_JUST = 0.999  # of what passes


@dataclass(frozen=True)
class Attack:
    """What the attacker does to its update; what it does to its rows is done already.

    Attributes:
        site: which one attacks.
        factor: of its update.
        passes: make the factor as large as just passes the check of single numbers (``far``), or
            no larger (``within``); empty: whether it passes or not.
    """

    site: str
    factor: float = 1.0
    passes: str = ""


@dataclass(frozen=True)
class Seen:
    """Shares of the rounds in which the attacker was refused and flagged, and number of honest
    sites flagged in a round.
    """

    refused: float
    flagged: float
    wrongly_flagged: float


def settings_of(
    aggregator: str, sites: Iterable[str], *, seed: int, rounds: int, **train: Any
) -> Settings:
    """A job's settings: an aggregator of ``AGGREGATORS``, and keys of ``[train]``."""
    names = tuple(sites)
    return Settings.model_validate(
        {
            "job": {"name": "attacked", "seed": seed, "rounds": rounds},
            "model": {"task": "classification"},
            "data": {},
            "sites": {"names": names, "partition": "dirichlet"},
            "tuning": {"lora": {"targets": TARGETS}},
            "train": train,
            "aggregation": AGGREGATORS[aggregator],
            "network": {"min_sites": len(names) - 1},
        }
    )


def numbers(top: Top) -> dict[str, Any]:
    """A copy of the tuned tensors."""
    return {name: t.numpy().copy() for name, t in trainable_state(top.model).items()}


def middling(sites: Mapping[str, States]) -> str:
    """The site of middling size: the one that attacks."""
    return sorted(sites, key=lambda site: len(sites[site]))[len(sites) // 2]


class Server:
    """The server enclave's part of a job, round by round.

    Args:
        settings: of the job.
        first: the first global adapter.
        rows: site -> signed training rows.
        folder: for the enclave's files.
        plain: average what comes.

    Attributes:
        adapter: the global adapter.
        settings: of the job.
    """

    def __init__(
        self,
        settings: Settings,
        first: Tensors,
        rows: Mapping[str, int],
        folder: Path,
        *,
        plain: bool = False,
    ) -> None:
        self.adapter, self.settings, self._plain = first, settings, plain
        self._rows, self._folder = rows, folder
        self._shapes = {name: tensor.shape for name, tensor in first.items()}
        self._ratio, self._standings = FIRST_RATIO, dict[str, Any]()

    def attacked(self, answer: Tensors, attack: Attack) -> Tensors:
        """What the attacker sends in the place of ``answer``."""
        moved = {name: answer[name] - before for name, before in self.adapter.items()}
        factor = attack.factor
        if attack.passes:
            largest = {name: float(np.abs(t).max()) for name, t in self.adapter.items()}
            train, tuning = self.settings.train, self.settings.tuning
            steps = [1.0] * train.steps(self._rows[attack.site])
            limits = UpdateBound(train, tuning, steps).limits(largest)
            room = _JUST * min(limits[n] / float(np.abs(t).max()) for n, t in moved.items())
            factor = factor * room if attack.passes == "far" else min(factor, room)
        with np.errstate(over="ignore", invalid="ignore"):
            return {n: before + np.float32(factor) * moved[n] for n, before in self.adapter.items()}

    def take(self, number: int, answers: Mapping[str, Tensors]) -> tuple[set[str], set[str]]:
        """End a round, counted from 1; returns who was refused, and who flagged as an outlier."""
        if self._plain:
            self.adapter = self._average(answers)
            return set(), set()
        outgoing = Outgoing(write_adapter(self.adapter), self._shapes, self.settings.tuning)
        admitted: Any = SimpleNamespace(
            settings=self.settings,
            plan=SimpleNamespace(shared=self._shapes),
            manifest=SimpleNamespace(
                data={site: SimpleNamespace(train_rows=rows) for site, rows in self._rows.items()},
                dp=None,
                rounds=self.settings.job.rounds,
            ),
            state_folder=self._folder,
            sealing_key=bytes(32),
            job_id="00" * 48,
        )
        round_ = TrainingRound(admitted, outgoing, self._ratio, self._standings, number)
        refused = set()
        for site, answer in answers.items():
            try:
                update = round_.check(site, write_adapter(answer))
            except UpdateBoundError:
                refused.add(site)
            else:
                round_.take(site, update)
        self.adapter = round_.result(len(refused))
        self._standings, compared = round_.compare()
        self._ratio = round_.norms.next_ratio
        return refused, {site for site, own in compared.items() if own["outlier"]}

    def _average(self, answers: Mapping[str, Tensors]) -> Tensors:
        """The rule alone."""
        with np.errstate(over="ignore", invalid="ignore"):
            moved = {s: {n: a[n] - b for n, b in self.adapter.items()} for s, a in answers.items()}
            reach = max(float(np.abs(t).max()) for own in moved.values() for t in own.values())
            context = RoundContext(
                self._shapes, self.adapter, self.settings, self._rows, reach, self._folder
            )
            rule = FedAvg(context)
            for site, update in moved.items():
                rule.add(site, update, self._rows[site])
            return rule.result()


def play(server: Server, top: Top, sites: Mapping[str, States], attack: Attack) -> Seen:
    """All rounds of the job; the last joint adapter is on ``top`` in the end."""
    job = server.settings.job
    refusals = flags = wrong = 0
    for number in range(1, job.rounds + 1):
        answers = _train(server, top, sites, number)
        if answers is None:
            break  # nothing is left to be trained
        if (attack.factor, attack.passes) != (1.0, ""):
            answers[attack.site] = server.attacked(answers[attack.site], attack)
        refused, flagged = server.take(number, answers)
        refusals += attack.site in refused
        flags += attack.site in flagged
        wrong += len(flagged - {attack.site})
    _load(top, server.adapter)
    return Seen(refusals / job.rounds, flags / job.rounds, wrong / job.rounds)


def _train(
    server: Server, top: Top, sites: Mapping[str, States], number: int
) -> dict[str, Tensors] | None:
    """Each site's adapter after a round; None: the global one is beyond repair."""
    answers: dict[str, Tensors] = {}
    settings = server.settings
    for site, own in sites.items():
        _load(top, server.adapter)
        task: Any = top
        data: Any = own
        seed = settings.job.seed
        try:
            local_round(top.model, task, data, settings.train, seed=seed, round=number, site=site)
        except ModelError:
            return None
        answers[site] = numbers(top)
    return answers


def _load(top: Top, adapter: Tensors) -> None:
    finite = {n: torch.from_numpy(np.nan_to_num(t)) for n, t in adapter.items()}
    load_trainable_state(top.model, finite)
