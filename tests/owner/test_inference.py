"""Answers of the server enclave are taken only as what was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sealtune.errors import DataError, FrameError
from sealtune.frames import Frame
from sealtune.model.cut_chunk import read_chunk
from sealtune.model.load import load_tokenizer
from sealtune.model.tasks import make_task
from sealtune.owner.inference import Asker, ClassAsker, ContinueAsker, read_answers
from tests.enclave.split_flow import SplitFederation

TEXTS = ["acute angina", "rash", "severe asthma with cough"]


def ask(asker: Asker, answers: Sequence[Sequence[float]] = ()) -> Frame:
    """One message of the server: the answers to the questions before."""
    return asker.answer(Frame("ask", {"round": 0}, np.asarray(answers, "<f4").tobytes()))


def parts(federation: SplitFederation) -> tuple[Any, Any]:
    """A site's bottom, and its task."""
    maker = federation.sites["north"]._worker._maker  # type: ignore[attr-defined]
    job, labels = federation.resolved.job, federation.resolved.labels
    tokenizer = load_tokenizer(job.model)
    task = make_task(job.model.task, tokenizer, max_tokens=24, template="{text}", labels=labels)
    return maker, task


@pytest.fixture
def asker(classes: SplitFederation) -> ClassAsker:
    """Has asked about three texts, of three classes."""
    maker, task = parts(classes)
    found = ClassAsker(classes.resolved, maker, task, TEXTS)
    question = ask(found)
    chunk = read_chunk(question.meta, memoryview(question.body), maker.layout)
    assert question.meta["samples"] == len(chunk.lengths) == 3
    assert chunk.labels == (0, 0, 0)  # the classes are what is asked
    return found


@pytest.fixture
def grower(language: SplitFederation) -> ContinueAsker:
    """Has asked for up to three more tokens of two rows; token 0 ends a text."""
    maker, _ = parts(language)
    found = ContinueAsker(language.resolved, maker, [[5, 6], [7]], tokens=3, end=0)
    assert ask(found).meta["samples"] == 2
    return found


@pytest.mark.parametrize("size", [0, 4, 11, 13, 16])
def test_answers_that_do_not_divide_among_the_texts(size: int) -> None:
    with pytest.raises(FrameError, match="are no answers to 3 texts"):
        read_answers(bytes(size), 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_answers_that_are_not_finite(asker: ClassAsker, value: float) -> None:
    with pytest.raises(FrameError, match="not finite"):
        ask(asker, [[1, 0, 0], [0, 1, 0], [0, 0, value]])
    assert asker.shares == []


@pytest.mark.parametrize("classes_", [1, 2, 4])
def test_answers_of_other_classes(asker: ClassAsker, classes_: int) -> None:
    with pytest.raises(FrameError, match=f"answered with {classes_} classes"):
        ask(asker, [[0.5] * classes_] * 3)
    assert asker.shares == []


def test_answers_in_their_order(asker: ClassAsker) -> None:
    answers = torch.eye(3).tolist()
    assert ask(asker, answers).kind == "enough"
    assert asker.shares == answers


@pytest.mark.parametrize("token", [-1, 400, 1e9, 5.5])
def test_no_token_of_the_model(grower: ContinueAsker, token: float) -> None:
    with pytest.raises(FrameError, match="answered with token"):
        ask(grower, [[token], [3]])
    assert grower.rows == [[5, 6], [7]]


def test_more_than_one_token_a_text(grower: ContinueAsker) -> None:
    with pytest.raises(FrameError, match="2 tokens for each text"):
        ask(grower, [[1, 2], [3, 4]])


def test_texts_grow_to_their_end_or_their_limit(grower: ContinueAsker) -> None:
    assert ask(grower, [[8], [9]]).meta["samples"] == 2
    assert ask(grower, [[0], [9]]).meta["samples"] == 1  # the first has ended
    assert ask(grower, [[9]]).kind == "enough"
    assert grower.rows == [[5, 6, 8, 0], [7, 9, 9, 9]]


@pytest.mark.parametrize(
    "question", [Frame("upload", {"round": 0}), Frame("ask", {}), Frame("ask", {"round": "0"})]
)
def test_other_messages_are_refused(asker: ClassAsker, question: Frame) -> None:
    with pytest.raises(FrameError, match="the server asked"):
        asker.answer(question)


def test_a_text_that_the_model_has_no_place_for(
    classes: SplitFederation, language: SplitFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own texts were shorter; a question is as long as ``data.max_tokens`` lets it be."""
    maker, task = parts(classes)
    monkeypatch.setattr(maker._config, "max_position_embeddings", 16)
    monkeypatch.setattr(maker, "_virtual_tokens", 5)
    ClassAsker(classes.resolved, maker, task, ["rash"])
    with pytest.raises(DataError, match=r"16 tokens.* behind 5 virtual ones, but .*16 positions"):
        ClassAsker(classes.resolved, maker, task, ["rash", "rash " * 8])
    maker, _ = parts(language)
    monkeypatch.setattr(maker._config, "max_position_embeddings", 8)
    ContinueAsker(language.resolved, maker, [[5, 6], [7]], tokens=6, end=0)
    with pytest.raises(DataError, match=r"16 tokens.*8 positions"):
        ContinueAsker(language.resolved, maker, [[5, 6], [7]], tokens=7, end=0)
