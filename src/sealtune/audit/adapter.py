"""An adapter trained on some rows, as one site of the job would, with noise or without.

    top, (states,) = frozen(subject, rows)
    trainer = Trainer(top, Schedule(60, 60, 5e-3))
    trainer.train(states.part(members), seed=1)
    trainer.train(states.part(members), seed=1, noise=trainer.noise(privacy, rows=300))
    top.scores(states)

Clipping, noise and its amount are those of the product (``model.private_gradients``,
``accounting``). Only where the noise comes from differs: from the seed, so that an audit can be
repeated.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from sealtune.accounting.terms import make_terms
from sealtune.audit.last_layer import States, Top, states_of
from sealtune.audit.subject import Subject
from sealtune.data.site import Example
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.sections import JobSpec, LoraSpec, SitesSpec, TrainSpec
from sealtune.job.settings import DataSettings, ModelSettings, Settings
from sealtune.model.fit import fitting_task
from sealtune.model.load import load_model
from sealtune.model.private_gradients import Noise, PrivateGradients
from sealtune.model.seeds import derive_seed
from sealtune.model.training import local_round
from sealtune.privacy.noise import NoiseStream

_SITE = "audit"


@dataclass(frozen=True)
class Schedule:
    """Steps, rows in a step, and AdamW's learning rate."""

    steps: int
    batch_size: int
    learning_rate: float

    @property
    def spec(self) -> TrainSpec:
        """As a job says it."""
        return TrainSpec(
            steps_per_round=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )


def frozen(subject: Subject, *groups: Sequence[Example]) -> tuple[Top, list[States]]:
    """The last layer of the run's model, and what each group of rows is just below it."""
    job, labels = subject.job, subject.labels
    task, model = fitting_task(job, labels), load_model(job.model, len(labels))
    states = [states_of(model, task.encode(rows)) for rows in groups]
    rank = (job.tuning.lora or LoraSpec()).rank
    return Top(job.model, labels, job.job.seed, rank), states


class Trainer:
    """Trains the same adapter anew from its first values.

    Args:
        top: of the model.
        schedule: how long.
    """

    def __init__(self, top: Top, schedule: Schedule) -> None:
        self.top, self.schedule = top, schedule

    def noise(self, privacy: PrivacySpec, rows: int) -> Noise:
        """What keeps the whole training on so many rows just within the budget."""
        settings = Settings(
            job=JobSpec(name=_SITE, rounds=1),
            model=ModelSettings(),
            data=DataSettings(),
            sites=SitesSpec(names=(_SITE,)),
            train=self.schedule.spec,
            privacy=privacy.model_copy(update={"noise_multiplier": None}),
        )
        terms = make_terms(settings, {_SITE: rows})
        assert terms is not None
        return Noise(privacy.clip, terms.noise_multiplier)

    def train(self, data: States, seed: int, noise: Noise | None = None) -> None:
        """Leave ``top`` with an adapter trained on ``data``."""
        self.top.reset()
        spec = self.schedule.spec
        private = None
        if noise is not None:
            private = _Repeatable(self.top, data, spec, noise, seed)
        task: Any = self.top
        rows: Any = data  # vectors in the place of texts
        local_round(
            self.top.model, task, rows, spec, seed=seed, round=1, site=_SITE, private=private
        )


def log_odds_of(scores: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """``log p / (1 - p)`` of each row's own class: [N, C], [N] -> float64 [N]."""
    scores, own = scores.double(), labels[:, None]
    rest = scores.scatter(1, own, -torch.inf).logsumexp(1)
    odds: NDArray[np.float64] = (scores.gather(1, own)[:, 0] - rest).numpy()
    return odds


class _Repeatable(PrivateGradients):
    """The product's noise and draws, from a key that everybody can know."""

    def __init__(self, top: Top, data: States, spec: TrainSpec, noise: Noise, seed: int) -> None:
        task: Any = top
        rows: Any = data
        super().__init__(top.model, task, rows, spec, noise)
        self._seed, self._stream = seed, _KnownStream(seed)

    def begin(self) -> None:
        torch.manual_seed(derive_seed("dropout", self._seed, _SITE, 1))


class _KnownStream(NoiseStream):
    def __init__(self, seed: int) -> None:
        super().__init__()
        key = b"".join(derive_seed("noise", seed, part).to_bytes(8) for part in range(4))
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
