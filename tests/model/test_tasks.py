from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from sealtune.errors import DataError, ModelError
from sealtune.model.batches import epoch_batches, sorted_batches, step_batches
from sealtune.model.load import load_model, load_tokenizer
from sealtune.model.tasks import Classification, LabelWords, Task, make_task
from tests.model.test_load import spec
from tests.model.tiny import LABELS, Text, batch_of, ids_of, make_texts, make_tokenizer


def task_of(
    folder: Path,
    name: str = "classification",
    *,
    max_tokens: int = 32,
    template: str = "{text}",
    labels: Sequence[str] = LABELS,
) -> Task:
    tokenizer = load_tokenizer(spec(folder))
    return make_task(name, tokenizer, max_tokens=max_tokens, template=template, labels=labels)


def model_of(folder: Path, name: str) -> Any:
    """In float64 where the test is."""
    return load_model(spec(folder, name), len(LABELS)).to(torch.get_default_dtype())


def test_batches_are_padded_right_to_buckets(llama: Path) -> None:
    task = task_of(llama)
    texts = [Text("rash", 2), Text("acute asthma with severe cough of the left type", 1)]
    batch = batch_of(task, texts)
    assert batch.input_ids.shape[1] % 8 == 0
    assert batch.tokens == batch.input_ids.numel()
    assert tuple(batch.lengths.tolist()) == task.encode(texts).lengths
    assert batch.attention_mask.sum(1).tolist() == batch.lengths.tolist()
    assert batch.input_ids[0, : batch.lengths[0]].tolist() == ids_of(task, "rash")
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 1]


@pytest.mark.usefixtures("float64")
def test_padding_does_not_change_the_answer(llama: Path) -> None:
    for name in ("classification", "label-words"):
        task, model = task_of(llama, name), model_of(llama, name)
        texts = make_texts(6, 0)
        with torch.no_grad():
            together = task.scores(model, batch_of(task, texts))
            alone = torch.cat([task.scores(model, batch_of(task, [text])) for text in texts])
        assert (together - alone).abs().max() < 1e-12


@pytest.mark.usefixtures("float64")
def test_loss_and_outcome_agree(llama: Path) -> None:
    for name in ("classification", "label-words", "causal-lm"):
        task, model = task_of(llama, name), model_of(llama, name)
        batch = batch_of(task, make_texts(5, 1))
        with torch.no_grad():
            outcome = task.outcome(model, batch)
            loss = float(task.loss(model, batch))
        assert outcome.loss_sum / outcome.total == pytest.approx(loss, rel=1e-12)
        assert 0 <= outcome.correct <= outcome.total


def test_long_text_is_cut_before_the_end_of_the_template(llama: Path) -> None:
    template = "Text: {text}\nAnswer:"
    task = task_of(llama, "label-words", max_tokens=16, template=template)
    cue = task.tokenizer("\nAnswer:", add_special_tokens=False)["input_ids"]
    ids = ids_of(task, "Text: " + "severe murmur " * 5000 + "\nAnswer:")
    assert len(ids) == 16
    assert ids[-len(cue) :] == cue


def test_template_longer_than_a_text_may_be_is_refused(llama: Path) -> None:
    with pytest.raises(ModelError, match="max_tokens"):
        task_of(llama, max_tokens=3, template="{text} which of the organs is it?")


def test_empty_text_is_refused(llama: Path) -> None:
    with pytest.raises(DataError, match="no tokens"):
        batch_of(task_of(llama), [Text("", 0)])


def test_text_without_label_is_refused(llama: Path) -> None:
    task, model = task_of(llama), model_of(llama, "classification")
    batch = batch_of(task, [Text("rash")])
    assert batch.labels is None
    with pytest.raises(DataError, match="without a label"):
        task.loss(model, batch)


@pytest.mark.usefixtures("float64")
def test_classification_agrees_with_hugging_face_when_a_text_ends_in_the_pad_token(
    llama: Path,
) -> None:
    task, model = task_of(llama), model_of(llama, "classification")
    assert isinstance(task, Classification)
    texts = [Text("acute rash<end>", 0), Text("cough with severe wheeze of the left", 1)]
    with torch.no_grad():
        ours = task.scores(model, batch_of(task, texts))
        padded = task.tokenizer([t.text for t in texts], padding=True, return_tensors="pt")
        theirs = model(**padded).logits
    assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.usefixtures("float64")
def test_label_words_score_with_the_language_models_own_logits(llama: Path) -> None:
    task, model = task_of(llama, "label-words"), model_of(llama, "label-words")
    assert isinstance(task, LabelWords)
    batch = batch_of(task, make_texts(4, 2))
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        expected = logits[torch.arange(4), batch.lengths - 1][:, task.words]
        got = task.scores(model, batch)
    assert (got - expected).abs().max() < 1e-12
    assert task.tokenizer.decode(task.words[:1]) == " heart"


def test_label_words_that_clash_are_named(llama: Path) -> None:
    with pytest.raises(ModelError, match="'skin left' and 'skin right'"):
        task_of(llama, "label-words", labels=("heart", "skin left", "skin right"))


@pytest.mark.usefixtures("float64")
def test_causal_lm_learns_the_end_token_although_it_is_the_pad_token(llama: Path) -> None:
    task, model = task_of(llama, "causal-lm", labels=()), model_of(llama, "causal-lm")
    texts = [Text("rash"), Text("mild asthma with cough and wheeze")]
    batch = batch_of(task, texts)
    last = batch.input_ids[torch.arange(2), batch.lengths - 1]
    assert last.tolist() == [task.tokenizer.eos_token_id] * 2
    with torch.no_grad():
        total = sum(
            float(
                functional.cross_entropy(
                    model(input_ids=torch.tensor([ids_of(task, t.text)])).logits[0, :-1],
                    torch.tensor(ids_of(task, t.text)[1:]),
                    reduction="sum",
                )
            )
            for t in texts
        )
        outcome = task.outcome(model, batch)
    assert outcome.total == int((batch.lengths - 1).sum())
    assert outcome.loss_sum == pytest.approx(total, rel=1e-12)


ENDING = ("classification", "label-words", "causal-lm")


@pytest.mark.parametrize("name", ENDING)
def test_a_tokenizer_that_appends_its_end_token_changes_nothing(
    llama: Path, tmp_path: Path, name: str
) -> None:
    other = Path(shutil.copytree(llama, tmp_path / "model"))
    make_tokenizer(other, appends_end=True, types=True)
    end = load_tokenizer(spec(other)).eos_token_id
    assert load_tokenizer(spec(other))("rash")["input_ids"][-1] == end  # so that this can fail
    labels = LABELS if name != "causal-lm" else ()
    usual, ending = (task_of(folder, name, labels=labels) for folder in (llama, other))
    for text in ("rash", "acute angina of the left", "severe murmur " * 40):
        ids = ids_of(ending, text)
        assert ids == ids_of(usual, text)
        assert ids.count(end) == (name == "causal-lm" and len(ids) < 32)


def test_a_text_that_ends_in_the_end_token_ends_in_it_once(llama: Path) -> None:
    task = task_of(llama, "causal-lm", labels=())
    assert ids_of(task, "rash<end>") == ids_of(task, "rash")


def test_an_epoch_holds_each_example_once() -> None:
    lengths = [i % 30 + 1 for i in range(1000)]
    batches = epoch_batches(lengths, 16, "seed", "site", 0)
    flat = [i for batch in batches for i in batch]
    assert len(batches) == 62
    assert len(set(flat)) == len(flat) == 992
    assert batches == epoch_batches(lengths, 16, "seed", "site", 0)
    assert batches != epoch_batches(lengths, 16, "seed", "site", 1)


def test_batches_hold_similar_lengths() -> None:
    lengths = torch.randint(1, 100, (2000,), generator=torch.Generator().manual_seed(0)).tolist()
    spread = [
        max(lengths[i] for i in batch) - min(lengths[i] for i in batch)
        for batch in epoch_batches(lengths, 16, 0)
    ]
    assert sum(spread) / len(spread) < 20  # shuffled alone they would spread over nearly 100


@pytest.mark.parametrize("count", [1, 7, 25])
def test_rounds_go_on_where_the_last_one_ended(count: int) -> None:
    lengths = [5] * 100
    whole = step_batches(lengths, 16, 0, 3 * count, "k")
    parts = [b for r in range(3) for b in step_batches(lengths, 16, r * count, count, "k")]
    assert whole == parts


def test_a_site_smaller_than_a_batch_still_trains() -> None:
    assert [sorted(batch) for batch in step_batches([4, 5, 6], 16, 0, 2, "k")] == [[0, 1, 2]] * 2


def test_evaluation_covers_every_example_once() -> None:
    batches = sorted_batches([3, 9, 1, 4, 2], 2)
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4]
    assert batches[0] == [2, 4]
