"""Rounds of aggregation without a run: a context, and updates to put into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sealtune.job.spec import Job
from sealtune.methods.federated.adapter import write_adapter
from sealtune.methods.federated.aggregation import RoundContext
from sealtune.methods.federated.agreement import Standing
from sealtune.methods.federated.norm_bound import FIRST_RATIO
from sealtune.methods.federated.ranks import Outgoing
from sealtune.methods.federated.training_round import TrainingRound
from tests.sample_job import make_job

SHAPES: dict[str, tuple[int, ...]] = {"a": (3, 4), "b": (5,), "c": (300, 200)}
Tensors = dict[str, np.ndarray]


def tensors(seed: int, scale: float = 1.0, shapes: Mapping[str, Any] = SHAPES) -> Tensors:
    source = np.random.default_rng(seed)
    return {n: (scale * source.normal(size=s)).astype(np.float32) for n, s in shapes.items()}


def job(**sections: Any) -> Job:
    return make_job("-", **sections)


def context(
    weights: Mapping[str, int],
    before: Tensors | None = None,
    *,
    folder: Path = Path("-"),
    reach: float = 100.0,
    **sections: Any,
) -> RoundContext:
    """Of a round of sites with these weights; ``sections`` are the job's."""
    before = tensors(0, 0.1) if before is None else before
    shapes = {name: tensor.shape for name, tensor in before.items()}
    return RoundContext(shapes, before, job(**sections), weights, reach, folder)


def admitted(folder: Path, weights: Mapping[str, int], **sections: Any) -> Any:
    """A job as far as ``TrainingRound`` looks at it; its adapter has ``SHAPES``."""
    sites = {"names": tuple(weights), "partition": "label"}
    settings = job(sites=sites, **sections).settings
    return SimpleNamespace(
        settings=settings,
        plan=SimpleNamespace(shared=SHAPES),
        manifest=SimpleNamespace(
            dp=None,
            data={site: SimpleNamespace(train_rows=rows) for site, rows in weights.items()},
            rounds=settings.job.rounds,
        ),
        state_folder=folder,
        sealing_key=bytes(32),
        job_id="00" * 48,
    )


def training_round(
    admitted: Any,
    before: Tensors,
    ratio: float = FIRST_RATIO,
    standings: Mapping[str, Standing] | None = None,
    number: int = 1,
) -> TrainingRound:
    """The round in which sites are sent ``before``."""
    outgoing = Outgoing(write_adapter(before), SHAPES, admitted.settings.tuning)
    return TrainingRound(admitted, outgoing, ratio, standings or {}, number)
