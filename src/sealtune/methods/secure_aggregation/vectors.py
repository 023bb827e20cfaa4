"""What a site puts into a sum, as numbers of the ring, and what the server reads out of one.

    evaluate, release   right answers | answers | loss summed over them
    train               tuned tensors' changes, times rows | mean loss, times rows

Each site multiplies by its signed number of rows. No number is cut off to fit: one beyond the
range, which no honest round comes near, ends that site's round with an error.

Trust domain: data owner (encoding), server operator (decoding).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sealtune.job.manifest import Manifest
from sealtune.methods.federated.adapter import Tensors
from sealtune.methods.secure_aggregation.messages import Stage
from sealtune.secure_sum.ring import FixedPoint, Vector

# learning rates that a number may move in a step: AdamW takes it 7.3 (``update_bound``), and weight
# decay never adds as much again
_REACH = 512
_LARGEST_LOSS = 1e4  # nats; far above that of guessing
_ANSWERS = 3


class Answers(NamedTuple):
    """How test rows were answered; ``loss`` is the mean, in nats."""

    correct: int
    total: int
    loss: float


class Vectors:
    """The vectors of one job.

    Args:
        manifest: of the job.
    """

    def __init__(self, manifest: Manifest) -> None:
        settings, data = manifest.settings, manifest.data
        self._shapes = dict(sorted(manifest.plan.trainable.items()))
        self._rows = {site: one.train_rows for site, one in data.items()}
        each = 1 if manifest.labels else settings.data.max_tokens
        self._questions = {site: one.test_rows * each for site, one in data.items()}
        everything, questions = sum(self._rows.values()), sum(self._questions.values())
        steps = max(map(settings.train.steps, self._rows.values()))
        tuning, train = settings.tuning, settings.train
        rate = max(tuning.learning_rate(name, train) for name in self._shapes)
        bound = settings.aggregation.norm_bound
        self._bound = bound if isinstance(bound, float) else math.inf
        self._changes = FixedPoint(_REACH * rate * steps, everything)
        self._train_loss = FixedPoint(_LARGEST_LOSS, everything)
        self._test_loss = FixedPoint(_LARGEST_LOSS, max(1, questions))

    def length(self, stage: Stage) -> int:
        """Numbers in a vector."""
        if stage != "train":
            return _ANSWERS
        return sum(math.prod(shape) for shape in self._shapes.values()) + 1

    def of_training(self, site: str, before: Tensors, after: Tensors, loss: float) -> Vector:
        """A site's round.

        Args:
            before: the global adapter.
            after: what the site made of it.
            loss: mean over its steps.

        Raises:
            ModelError: a number is not finite, or out of all range.
        """
        rows = self._rows[site]
        change = np.concatenate(
            [np.float64(after[n]).ravel() - np.float64(before[n]).ravel() for n in self._shapes]
        )
        norm = float(np.linalg.norm(change))
        if norm > self._bound:
            change *= self._bound / norm
        parts = self._changes.encode(change, rows), self._train_loss.encode([loss], rows)
        return np.concatenate(parts)

    def of_answers(self, answers: Answers) -> Vector:
        """How a site's test rows were answered.

        Raises:
            ModelError: the loss is not finite, or out of all range.
        """
        counts = np.array([answers.correct, answers.total], np.uint64)
        return np.concatenate([counts, self._test_loss.encode([answers.loss], answers.total)])

    def mean_changes(
        self, total: Vector, sites: Collection[str]
    ) -> tuple[dict[str, NDArray[np.float64]], float]:
        """Mean changes of each tensor and mean loss, weighted by rows, of the sites in a sum."""
        rows, changes, start = sum(self._rows[site] for site in sites), {}, 0
        for name, shape in self._shapes.items():
            end = start + math.prod(shape)
            changes[name] = self._changes.mean(total[start:end], rows).reshape(shape)
            start = end
        return changes, float(self._train_loss.mean(total[start:], rows)[0])

    def answers(self, total: Vector, sites: Collection[str]) -> Answers | None:
        """Of the sites in a sum, together; None where a site has sent what makes no sense."""
        correct, answered = map(int, total[:2])
        if not correct <= answered <= sum(self._questions[site] for site in sites):
            return None
        loss = float(self._test_loss.mean(total[2:], max(1, answered))[0])
        return Answers(correct, answered, loss)


def changed(before: Tensors, changes: Mapping[str, NDArray[np.float64]]) -> Tensors:
    """The next global adapter, float32."""
    return {name: (tensor + changes[name]).astype(np.float32) for name, tensor in before.items()}
