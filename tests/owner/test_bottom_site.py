"""What a data owner's process computes from its texts, and what it answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sealtune.errors import DataError, FrameError
from sealtune.frames import Frame
from sealtune.job.sections import SplitSpec, TrainSpec
from sealtune.job.spec import ModelSpec
from sealtune.model.activations import unpack
from sealtune.model.load import load_model
from tests.enclave.split_flow import SplitFederation, make_split, make_split_job
from tests.float64 import as_near_as, in_float64
from tests.sample_job import SITES, write_rows

ROWS = [[5, 9, 200], [7], [17, 3, 90, 8, 8, 41, 399, 2, 60, 11], [4, 4]]


def upload(federation: SplitFederation, chunk: object, site: str = "north") -> Frame:
    """A site's answer to the question for one chunk."""
    return federation.sites[site]._worker.answer(Frame("upload", {"round": 0, "chunk": chunk}))


def stated(answers: Iterable[Frame]) -> list[dict[str, Any]]:
    """What chunks say of themselves, but for the time that they took."""
    return [{k: v for k, v in answer.meta.items() if k != "seconds"} for answer in answers]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_cut_activations_are_those_of_the_whole_model(
    deep_llama: Path, tmp_path: Path, cut: int
) -> None:
    job = make_split_job(tmp_path, deep_llama, split=SplitSpec(cut=cut, activations="fp32"))
    maker: Any = make_split(job, tmp_path / "run").sites["north"]._worker._maker  # type: ignore[attr-defined]
    whole = load_model(job.model, 3)
    exact = copy.deepcopy(whole).double()
    packed = maker.packed(ROWS)  # together, padded; the whole model gets them one by one
    maker._bottom._decoder.double()
    for row, data in zip(ROWS, packed, strict=True):
        ids = torch.tensor([row])
        with torch.no_grad():
            other = whole(ids, output_hidden_states=True).hidden_states[cut][0]
            with in_float64():
                expected = exact(ids, output_hidden_states=True).hidden_states[cut][0]
                found = maker._bottom(ids, torch.ones_like(ids))[0]
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        assert as_near_as(unpack(data, "fp32", maker.layout.width), other, expected)


@pytest.mark.usefixtures("small_chunks")
def test_chunks_follow_from_the_data_alone(llama: Path, tmp_path: Path) -> None:
    """Whatever the order of questions, and in each process: the same chunks, byte for byte."""
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    count = upload(federation, 0).meta["of"]
    assert count > 2
    forward = [upload(federation, number) for number in range(count)]
    federation.start_site("north")
    backward = [upload(federation, number) for number in reversed(range(count))][::-1]
    assert stated(backward) == stated(forward)
    assert [bytes(f.body) for f in backward] == [bytes(f.body) for f in forward]

    one_by_one = make_split_job(tmp_path, llama, train=TrainSpec(eval_batch_size=1))
    other = make_split(one_by_one, tmp_path / "other")
    assert stated(upload(other, number) for number in range(count)) == stated(forward)


@pytest.mark.usefixtures("small_chunks")
def test_chunks_hold_every_sample_once_and_in_order(llama: Path, tmp_path: Path) -> None:
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    worker: Any = federation.sites["north"]._worker
    expected = {part: list(texts.labels) for part, texts, _ in worker._chunks}
    answers = [upload(federation, n) for n in range(upload(federation, 0).meta["of"])]
    assert expected.keys() == {"train", "test"}
    for part, wanted in expected.items():
        labels: list[int] = []
        for answer in answers:
            if answer.meta["part"] == part:
                n = answer.meta["samples"]
                labels += np.frombuffer(answer.body, "<i4", n, offset=4 * n).tolist()
        assert labels == wanted


@pytest.mark.parametrize("chunk", [-1, 99, 1.0, "0", None, [0]])
def test_no_chunk_of_that_number(classes: SplitFederation, chunk: object) -> None:
    with pytest.raises(FrameError, match="asked for chunk"):
        upload(classes, chunk)


@pytest.mark.parametrize(
    "question",
    [
        Frame("train", {"round": 0}),
        Frame("text", {"round": 0, "chunk": 0}),
        Frame("upload", {"chunk": 0}),
        Frame("upload", {"round": "0", "chunk": 0}),
        Frame("finish", {"part": 0, "of": 1, "files": {}}),
    ],
)
def test_other_questions_are_refused(classes: SplitFederation, question: Frame) -> None:
    with pytest.raises(FrameError, match="the server asked"):
        classes.sites["north"]._worker.answer(question)


def test_a_text_of_one_token_is_refused_where_it_teaches_nothing(
    llama: Path, tmp_path: Path
) -> None:
    # an end token is put behind every other text
    rows = [{"text": text} for text in ("acute angina", "<end>", "rash", "cough of the lung")]
    paths = {site: str(write_rows(tmp_path / f"{site}.jsonl", rows)) for site in SITES}
    sections: dict[str, Any] = {
        "data": {"train": paths, "test": paths, "max_tokens": 24},
        "sites": {"names": SITES, "partition": "file"},
    }
    model = ModelSpec(path=str(llama), task="causal-lm")
    job = make_split_job(tmp_path, llama, model=model, **sections)
    with pytest.raises(DataError, match="single token: nothing to predict"):
        make_split(job, tmp_path / "run")


@pytest.mark.usefixtures("small_chunks")
def test_nothing_but_sealed_bytes_leaves(llama: Path, tmp_path: Path) -> None:
    """Neither texts, nor tokens, nor activations are in messages, events or files for others."""
    model = ModelSpec(path=str(llama), task="causal-lm")
    federation = make_split(make_split_job(tmp_path, llama, model=model), tmp_path / "run")
    lines = [p.read_text().splitlines() for p in tmp_path.glob("*.jsonl")]
    texts = [json.loads(line)["text"].encode() for line in chain.from_iterable(lines)]
    secrets, bodies = [], []
    for site in SITES:
        worker: Any = federation.sites[site]._worker
        for _, rows, span in worker._chunks:
            secrets += [np.asarray(row, "<u4").tobytes() for row in rows.rows(span)]
        for number in range(upload(federation, 0, site).meta["of"]):
            bodies.append(bytes(upload(federation, number, site).body))
        federation.start_site(site)
    secrets += [body[i : i + 16] for body in bodies for i in range(2000, len(body) - 16, 4001)]
    assert len(texts) == 84 < len(secrets)
    federation.run(federation.server())
    told = json.dumps(federation.events).encode()
    files = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    for seen in (b"".join(federation.wire), told, files):
        assert [secret for secret in (*texts, *secrets) if secret in seen] == []
    assert all(any(secret in body for body in bodies) for secret in secrets)  # it could find them
