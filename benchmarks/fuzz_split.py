"""The parsers of a split job that `benchmarks/fuzz.py` feeds."""

from __future__ import annotations

import numpy as np
import torch

from fuzz_evidence import KEY, NOW, Target
from fuzz_mutate import framed, json_or_raw, raw
from sealtune import frames
from sealtune.attest import Evidence
from sealtune.attest.platforms.participant import (
    ParticipantAttester,
    ParticipantVerifier,
    participant_policy,
)
from sealtune.frames import Frame
from sealtune.job.keys import public_hex
from sealtune.methods.split.release import release_parts
from sealtune.model.activations import pack, unpack
from sealtune.model.cut_chunk import Chunk, Layout, read_chunk
from sealtune.owner.inference import read_answers
from sealtune.owner.received import Received
from sealtune.tuning.spf.files import parse_spf_config

TEXTS = Layout(form="int8", width=8, max_tokens=16, classes=3, vocabulary=100)
TOKENS = Layout(form="bf16", width=8, max_tokens=16, classes=0, vocabulary=100)
BOUND = bytes(range(64))


def split_targets() -> list[Target]:
    """All of them."""
    chunks = tuple(_chunk(layout) for layout in (TEXTS, TOKENS))
    packed = pack(torch.ones(3, 8), "int8")
    parts = tuple(frames.encode(f) for f in release_parts({"a": b"x" * 30, "b": b""}, 2))
    signature = ParticipantAttester(KEY).collect(BOUND).encode()
    config = (
        b'{"format": 1, "config": {"qkv": 0.25, "dense": 0.25, "select": "random", "seed": 1, '
        b'"layers": [1], "modules_to_save": ["score"]}, "heads": {"a": {"query": [0, 2]}}}'
    )
    answers = np.ones((2, 3), "<f4").tobytes()
    return [
        Target("cut chunk", _read_texts, framed(*chunks), chunks, 8_000),
        Target("cut chunk of tokens", _read_tokens, framed(*chunks), chunks, 8_000),
        Target("cut activations", lambda d: unpack(d, "int8", 8), raw(packed), (packed,), 4_000),
        Target("release of the adapter", _take, framed(*parts), parts, 6_000),
        Target("participant signature", _verify, raw(signature), (signature,), 4_000),
        Target(
            "SPF configuration",
            lambda d: parse_spf_config(d, "fuzz"),
            json_or_raw(config),
            (config,),
            4_000,
        ),
        Target("answers", lambda d: read_answers(d, 2), raw(answers), (answers,), 2_000),
    ]


def _chunk(layout: Layout) -> bytes:
    lengths = (3, 1)
    chunk = Chunk(
        "train",
        lengths,
        (2, 0) if layout.classes else (-1, -1),
        None if layout.classes else ((5, 6, 7), (8,)),
        tuple(pack(torch.full((n, layout.width), 0.5), layout.form) for n in lengths),
    )
    return frames.encode(Frame("chunk", {"part": "train", "samples": 2}, chunk.body()))


def _read_texts(data: bytes) -> None:
    _read(data, TEXTS)


def _read_tokens(data: bytes) -> None:
    _read(data, TOKENS)


def _read(data: bytes, layout: Layout) -> None:
    frame = frames.decode(data)
    for packed in read_chunk(frame.meta, memoryview(frame.body), layout).activations:
        unpack(packed, layout.form, layout.width)


def _take(data: bytes) -> None:
    Received().take(frames.decode(data))


def _verify(data: bytes) -> None:
    policy = participant_policy(public_hex(KEY.public_key()))
    ParticipantVerifier().verify(Evidence.decode(data), report_data=BOUND, policy=policy, at=NOW)
