"""How much data a job has: rows and tokens of each site, and the padded sizes of its steps.

Texts are tokenised and batched with the code of a real run; of large files a part is, and the rest
is taken to be like it. No text is kept.

Trust domain: data owner or operator; counts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sealtune.advise.costs import Batch
from sealtune.data.site import Example, load_sites
from sealtune.job.spec import Job
from sealtune.model.batches import epoch_batches, sorted_batches
from sealtune.model.load import load_tokenizer
from sealtune.model.tasks import Task, task_of
from sealtune.model.texts import padded

SAMPLE = 2000  # texts of a site and part that are really tokenised


@dataclass(frozen=True)
class Part:
    """Training or test rows of one site.

    Attributes:
        rows: how many.
        tokens: of all rows, without padding.
        padded: of all rows in batches of similar length, as evaluation and upload see them.
        step: a training step's mean batch; of the test rows, an evaluation's.
        largest: the largest batch of a training step (test: of an evaluation).
    """

    rows: int
    tokens: int
    padded: float
    step: Batch
    largest: Batch

    @property
    def whole(self) -> Batch:
        """All rows as one batch: only their tokens and their length count."""
        return Batch(self.padded, self.step.length)


@dataclass(frozen=True)
class Counts:
    """All sites' data.

    Attributes:
        train: by site.
        test: by site.
        counted: texts that were tokenised.
        rows: texts that there are.
    """

    train: dict[str, Part]
    test: dict[str, Part]
    counted: int
    rows: int

    def pooled_step(self) -> Batch:
        """The mean training step on all sites' rows together."""
        parts = list(self.train.values())
        return mean([p.step for p in parts], [p.rows for p in parts])

    def largest_step(self) -> Batch:
        """The largest training step of any site."""
        return max((p.largest for p in self.train.values()), key=lambda batch: batch.tokens)


def count_data(job: Job, labels: tuple[str, ...]) -> Counts:
    """Count the rows and tokens of ``job``'s files.

    Args:
        job: its model is a folder that holds a tokenizer.
        labels: classes in their order; empty for ``causal-lm``.

    Raises:
        DataError: the files cannot be used.
    """
    task = task_of(job, labels, load_tokenizer(job.model))
    train: dict[str, Part] = {}
    test: dict[str, Part] = {}
    counted = rows = 0
    for site, data in load_sites(job, labels).items():
        spec = job.train
        for examples, parts, size in (
            (data.train, train, spec.batch_size),
            (data.test, test, spec.eval_batch_size),
        ):
            lengths = _lengths(task, examples)
            parts[site] = count_part(
                lengths, len(examples), size, spec.eval_batch_size, job.job.seed
            )
            counted, rows = counted + len(lengths), rows + len(examples)
    return Counts(train, test, counted, rows)


def count_part(lengths: Sequence[int], rows: int, size: int, eval_size: int, seed: int) -> Part:
    """Sizes of one part.

    Args:
        lengths: tokens of the rows that were looked at.
        rows: how many there are.
        size: rows of a batch.
        eval_size: rows of a batch of an evaluation.
        seed: of the job.
    """
    if not lengths:
        return Part(rows, 0, 0.0, Batch(0, 0), Batch(0, 0))
    scale = rows / len(lengths)
    size = min(size, len(lengths))
    steps = [_padded(lengths, chosen) for chosen in epoch_batches(lengths, size, seed)]
    sorted_ = [_padded(lengths, chosen) for chosen in sorted_batches(lengths, eval_size)]
    return Part(
        rows=rows,
        tokens=round(sum(lengths) * scale),
        padded=sum(batch.tokens for batch in sorted_) * scale,
        step=mean(steps, [1] * len(steps)),
        largest=max(steps, key=lambda batch: batch.tokens),
    )


def mean(batches: Sequence[Batch], weights: Sequence[int]) -> Batch:
    """The mean batch."""
    pairs, whole = list(zip(batches, weights, strict=True)), sum(weights)
    tokens, length = sum(b.tokens * w for b, w in pairs), sum(b.length * w for b, w in pairs)
    return Batch(tokens / whole, length / whole)


def _padded(lengths: Sequence[int], chosen: Sequence[int]) -> Batch:
    length = padded(max(lengths[i] for i in chosen))
    return Batch(len(chosen) * length, length)


def _lengths(task: Task, examples: Sequence[Example]) -> tuple[int, ...]:
    step = max(1, len(examples) // SAMPLE)  # spread over the file, which may be sorted
    return task.encode(examples[::step][:SAMPLE]).lengths
