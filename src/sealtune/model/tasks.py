"""What a model learns: one small class per task, all with the same methods.

    task = make_task("classification", tokenizer, max_tokens=64, template="{text}", labels=names)
    batch = task.encode(examples).batch([0, 1, 2])
    task.loss(model, batch).backward()
    task.outcome(model, batch).correct

``model`` is any Hugging Face or PEFT model, with or without masked layers, whole or a top.

Trust domain: client enclave (federated); data owner and server enclave (split).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sealtune.errors import DataError, ModelError, UnsupportedModelError
from sealtune.job.spec import Job
from sealtune.job.template import parse_template
from sealtune.model.head_loss import head_rows, logit_parts
from sealtune.model.texts import Batch, Example, Texts
from sealtune.model.tokens import text_ids


@dataclass(frozen=True)
class Outcome:
    """How a batch was answered.

    Attributes:
        correct: right answers (texts, or tokens for ``causal-lm``).
        total: answers.
        loss_sum: cross-entropy summed over them, in nats.
        predicted: class number of each text; empty for ``causal-lm``.
    """

    correct: int
    total: int
    loss_sum: float
    predicted: tuple[int, ...] = ()


class Task(ABC):
    """Tokenising, loss and metrics of one task.

    Args:
        tokenizer: the model's, from ``load_tokenizer``.
        max_tokens: longer texts are cut to this many tokens.
        template: the prompt template; what follows its last column is never cut off.
        labels: class names in the order of their numbers.
    """

    name: str

    def __init__(
        self, tokenizer: Any, max_tokens: int, template: str, labels: Sequence[str]
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.labels = tuple(labels)
        self.pad_id = int(tokenizer.pad_token_id)
        self._tail = self._cue_tokens(template)

    def _cue_tokens(self, template: str) -> int:
        """Tokens that the template's closing words take up at most, such as ``\\nAnswer:``."""
        last = parse_template(template)[-1]
        if last.is_column:
            return 0
        count = len(self.tokenizer(last.text, add_special_tokens=False)["input_ids"]) + 1
        if count >= self.max_tokens:
            raise ModelError(
                f"data.max_tokens is {self.max_tokens}, but the end of data.template alone takes "
                f"up to {count} tokens",
                hint="raise data.max_tokens or shorten the template",
            )
        return count

    def encode(self, examples: Sequence[Example]) -> Texts:
        """The token ids of every text, at most ``max_tokens``; the cut is before the cue.

        Raises:
            DataError: a text has no tokens.
        """
        packed, lengths, truncated = array("i"), [], 0
        texts = text_ids(self.tokenizer, [example.text for example in examples])
        for example, ids in zip(examples, texts, strict=True):
            if not ids:
                where = f"row {example.row}" if example.row else "a text"
                raise DataError(f"{where} has no tokens", hint="fill its text in or delete it")
            truncated += len(ids) > self.max_tokens
            row = self._finish(self._cut(ids))
            packed.extend(row)
            lengths.append(len(row))
        labels = tuple(example.label for example in examples)
        return Texts(np.array(packed, np.int32), tuple(lengths), labels, self.pad_id, truncated)

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.max_tokens:
            return ids
        return ids[: self.max_tokens - self._tail] + ids[len(ids) - self._tail :]

    def _finish(self, ids: list[int]) -> list[int]:
        """What the task makes of a text's ids; at least one is left."""
        return ids

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the batch, in nats: a float32 scalar with a gradient."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of each example, which no other of the batch changes: float32 [B]."""
        raise ModelError(f"the loss of the task {self.name} is one of a whole batch")

    @abstractmethod
    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        """Answers and loss of the batch."""

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """Unnormalised log-probabilities of the classes: float32 [B, C]."""
        raise ModelError(f"the task {self.name} has no classes to score")

    def next_tokens(self, model: nn.Module, batch: Batch) -> Tensor:
        """The most probable token after each text, int64 [B]."""
        raise ModelError(f"the task {self.name} continues no texts")

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """All that is known of a model's answers: [B, C], or [tokens inside texts, V]."""
        if self.labels:
            return self.scores(model, batch)
        result = model(**batch.inputs())
        return cast(Tensor, result.logits)[batch.attention_mask.bool()].float()

    def logit_parts(self, model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        """``logits``, a few rows at a time where they are many."""
        parts = None if self.labels else logit_parts(base_model(model), model, batch)
        yield from (self.logits(model, batch),) if parts is None else parts


class _Classes(Task):
    """What the two tasks with classes share."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.scores(model, batch), _labels(batch))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.scores(model, batch), _labels(batch), reduction="none")

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        scores, labels = self.scores(model, batch), _labels(batch)  # [B, C], [B]
        predicted = scores.argmax(dim=1)
        return Outcome(
            correct=int((predicted == labels).sum()),
            total=len(labels),
            loss_sum=float(functional.cross_entropy(scores, labels, reduction="sum")),
            predicted=tuple(predicted.tolist()),
        )


class Classification(_Classes):
    """A trained head reads the class off the last token (Hugging Face's own forward pass)."""

    name = "classification"

    def _finish(self, ids: list[int]) -> list[int]:
        """A pad token at the end is dropped, since the head skips it."""
        while len(ids) > 1 and ids[-1] == self.pad_id:
            ids.pop()
        return ids

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        result = model(**batch.inputs())
        return cast(Tensor, result.logits).float()  # [B, C]


class LabelWords(_Classes):
    """The language model itself names the class: its logits of the labels' first tokens compete."""

    name = "label-words"

    def __init__(
        self, tokenizer: Any, max_tokens: int, template: str, labels: Sequence[str]
    ) -> None:
        super().__init__(tokenizer, max_tokens, template, labels)
        self.words = torch.tensor([self._first_token(label) for label in self.labels])
        seen: dict[int, str] = {}
        for label, token in zip(self.labels, self.words.tolist(), strict=True):
            if token in seen:
                raise ModelError(
                    f"the labels '{seen[token]}' and '{label}' begin with the same token "
                    f"({self.tokenizer.decode([token])!r}), so label words cannot tell them apart",
                    hint="rename one of them, or set model.task to 'classification'",
                )
            seen[token] = label

    def _first_token(self, label: str) -> int:
        """The first token of ``label`` when it follows a text."""
        before = self.tokenizer("x", add_special_tokens=False)["input_ids"]
        after = self.tokenizer(f"x {label.strip()}", add_special_tokens=False)["input_ids"]
        return int(after[len(before)])

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = _last_logits(model, batch)  # [B, V]
        return logits[:, self.words.to(logits.device)].float()  # [B, C]


class CausalLM(Task):
    """Continue text: next-token cross-entropy over every token of the text and its end."""

    name = "causal-lm"

    def _finish(self, ids: list[int]) -> list[int]:
        """With the end token where there is room."""
        end = self.tokenizer.eos_token_id
        room = len(ids) < self.max_tokens and ids[-1] != end
        return [*ids, end] if end is not None and room else ids

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        rows = head_rows(base_model(model), model, batch)
        if rows is not None:
            return rows.loss()
        logits, targets = self._pairs(model, batch)
        return functional.cross_entropy(logits, targets)

    def next_tokens(self, model: nn.Module, batch: Batch) -> Tensor:
        """The most probable token after each text, int64 [B]."""
        return _last_logits(model, batch).argmax(dim=1)

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        rows = head_rows(base_model(model), model, batch)
        if rows is not None:
            correct, loss_sum = rows.answers()
            return Outcome(correct=correct, total=len(rows.targets), loss_sum=loss_sum)
        logits, targets = self._pairs(model, batch)
        return Outcome(
            correct=int((logits.argmax(dim=1) == targets).sum()),
            total=len(targets),
            loss_sum=float(functional.cross_entropy(logits, targets, reduction="sum")),
        )

    def _pairs(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits float32 [M, V] and the tokens int64 [M] that they should predict."""
        inside, targets = batch.predicted
        result = model(**batch.inputs())
        return result.logits[:, :-1][inside].float(), targets


def make_task(
    name: str, tokenizer: Any, *, max_tokens: int, template: str, labels: Sequence[str]
) -> Task:
    """The task called ``name``; arguments as for ``Task``.

    Raises:
        ModelError: label words that clash, or a template whose end is longer than a text may be.
    """
    kinds: tuple[type[Task], ...] = (Classification, LabelWords, CausalLM)
    return {kind.name: kind for kind in kinds}[name](tokenizer, max_tokens, template, labels)


def task_of(job: Job, labels: Sequence[str], tokenizer: Any) -> Task:
    """The task of ``job``, whose classes are ``labels``."""
    return make_task(
        job.model.task,
        tokenizer,
        max_tokens=job.data.max_tokens,
        template=job.data.template,
        labels=labels,
    )


def base_model(model: Any) -> Any:
    """The Hugging Face model inside a PeftModel, or ``model`` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _last_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of the token after each text, float [B, V].

    It is the model's own forward pass, with whatever it does to its logits (a bias, a soft cap, a
    scale); only the hidden state of each text's last token reaches the output matrix.
    """
    head = base_model(model).get_output_embeddings()
    rows = torch.arange(len(batch.lengths), device=batch.lengths.device)

    def last_only(_head: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0][rows, batch.lengths - 1].unsqueeze(1),)  # [B, T, D] -> [B, 1, D]

    with head.register_forward_pre_hook(last_only):
        result = model(**batch.inputs())
    logits = cast(Tensor, result.logits)
    if logits.shape[:2] != (len(rows), 1):
        raise UnsupportedModelError(
            f"{type(base_model(model)).__name__} uses its output matrix otherwise than decoders do",
            hint="set model.task to 'classification'",
        )
    return logits[:, 0]


def _labels(batch: Batch) -> Tensor:
    if batch.labels is None:
        raise DataError("the batch has texts without a label")
    return batch.labels
