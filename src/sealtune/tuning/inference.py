"""Use a finished adapter: score it on a job's test rows, and answer new texts.

Trust domain: whoever received the adapter; no enclave takes part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from sealtune.data.site import Example, load_sites
from sealtune.errors import AdapterMismatchError, DataError
from sealtune.job.spec import Job
from sealtune.model.batches import sorted_batches
from sealtune.model.fit import check_length
from sealtune.model.load import quiet
from sealtune.model.tasks import base_model
from sealtune.model.tokens import text_ids
from sealtune.model.training import evaluate
from sealtune.tuning.folder import LoadedAdapter, load_adapter


def score_adapter(
    job: Job, folder: Path, *, on_batch: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Answer all sites' test rows with the adapter on the original float32 weights, by plain peft.

    Args:
        job: whose test rows; its model must be the adapter's.
        folder: the adapter.
        on_batch: called with the number of tokens before each batch.

    Returns:
        ``accuracy, correct, total, loss, majority_class`` (None for ``causal-lm``, which counts
        tokens) and ``per_site.<site>`` with ``accuracy, correct, total, loss``.

    Raises:
        AdapterMismatchError: the adapter is of another base model, task, or set of labels.
        DataError: no test row at all, or one that the model has no place for.
    """
    loaded = load_adapter(folder, base=job.model.path, revision=job.model.revision)
    _check_same_task(job, loaded)
    per_site: dict[str, Any] = {}
    classes: Counter[int | None] = Counter()
    for site, data in load_sites(job, loaded.fingerprint.labels).items():
        result = evaluate(
            loaded.model,
            loaded.task,
            loaded.encode(data.test),
            batch_size=job.train.eval_batch_size,
            on_batch=on_batch,
        )
        per_site[site] = _line(result.correct, result.total, result.loss)
        classes.update(example.label for example in data.test)
    total = sum(line["total"] for line in per_site.values())
    if not total:
        raise DataError("the job has no test rows")
    loss = sum(line["loss"] * line["total"] for line in per_site.values()) / total
    correct = sum(line["correct"] for line in per_site.values())
    majority = max(classes.values()) / classes.total() if loaded.fingerprint.labels else None
    return {**_line(correct, total, loss), "majority_class": majority, "per_site": per_site}


def classify(
    loaded: LoadedAdapter, texts: Sequence[str], *, batch_size: int = 32
) -> list[list[float]]:
    """The probability of every label for each text.

    Raises:
        DataError: a text that the model has no place for.
    """
    data = loaded.encode([Example(text, None) for text in texts])
    answers: list[list[float]] = [[] for _ in texts]
    with torch.no_grad():
        for chosen in sorted_batches(data.lengths, batch_size):
            scores = loaded.task.scores(loaded.model, data.batch(chosen))  # [B, C]
            for i, shares in zip(chosen, scores.softmax(dim=1).tolist(), strict=True):
                answers[i] = shares
    return answers


def continue_text(loaded: LoadedAdapter, text: str, *, tokens: int = 32) -> str:
    """The most probable continuation, for ``causal-lm`` adapters: greedy, up to the end token.

    A model's ``generation_config.json`` plays no part: a penalty or a temperature in it would make
    another text of the same adapter than the server enclave of a split job does.
    """
    tokenizer = loaded.task.tokenizer
    (ids,) = text_ids(tokenizer, [text])
    if not ids:
        raise DataError("the text has no tokens")
    base = base_model(loaded.model)
    check_length(
        len(ids) + tokens,
        base.config,
        hint="shorten the text, or ask for fewer tokens",
        virtual_tokens=loaded.virtual_tokens,
    )
    inputs = torch.tensor([ids])
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    base.generation_config = greedy
    with torch.no_grad(), quiet():
        result = loaded.model.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), generation_config=greedy
        )
    continuation: str = tokenizer.decode(result[0, len(ids) :], skip_special_tokens=True)
    return continuation


def _check_same_task(job: Job, loaded: LoadedAdapter) -> None:
    own = loaded.fingerprint
    pairs = {
        "task": (own.task, job.model.task),
        "template": (own.template, job.data.template),
        "labels": (own.labels, job.data.labels or own.labels),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise AdapterMismatchError(
                f"the adapter was trained with {what} {theirs!r}, the job has {ours!r}",
                hint="give the job file that the adapter was made with",
            )


def _line(correct: int, total: int, loss: float) -> dict[str, Any]:
    accuracy = correct / total if total else None
    return {"accuracy": accuracy, "correct": correct, "total": total, "loss": loss}
