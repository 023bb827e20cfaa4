"""Bodies of updates that a site should not send: each is refused, and the others' round is as if
the site had been away. Those that pass the checks are extreme, and harm no more than is stated."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealtune.errors import AdapterMismatchError, SiteLostError, UpdateBoundError
from sealtune.job.sections import TrainSpec
from sealtune.methods.federated import adapter
from sealtune.methods.federated.adapter import write_adapter
from sealtune.methods.federated.norm_bound import FIRST_RATIO
from sealtune.methods.federated.update_bound import LARGEST_STEP
from tests.methods.rounds import SHAPES, Tensors, admitted, tensors, training_round

RULES = ["fedavg", "median", "trimmed-mean", "multi-krum"]
TRAIN = TrainSpec(steps_per_round=3, batch_size=4, learning_rate=1e-2)
REACH = TRAIN.learning_rate * 3 * LARGEST_STEP
WEIGHTS = {"east": 40, "mid": 30, "north": 20, "south": 10, "west": 35, "wild": 50}
BEFORE = tensors(0, 0.1)
Body = Callable[[], bytes]


def sent(seed: int, scale: float = 0.01) -> Tensors:
    return {name: BEFORE[name] + moved for name, moved in tensors(seed, scale).items()}


def with_header(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def header_of(body: bytes) -> tuple[dict[str, Any], bytes]:
    size = 8 + int.from_bytes(body[:8], "little")
    return json.loads(body[8:size]), body[size:]


def edited(change: Callable[[dict[str, Any]], Any]) -> Body:
    """An honest body under another header."""

    def body() -> bytes:
        header, data = header_of(write_adapter(sent(9)))
        return with_header(change(header), data)

    return body


def entry(name: str, **fields: Any) -> Body:
    return edited(lambda header: {**header, name: {**header[name], **fields}})


def holding(value: float, name: str = "c", place: int = -1) -> Body:
    def body() -> bytes:
        wrong = sent(9)
        wrong[name].reshape(-1)[place] = value
        return write_adapter(wrong)

    return body


def other(change: Callable[[Tensors], Tensors]) -> Body:
    return lambda: write_adapter(change(sent(9)))


def twice(header: dict[str, Any]) -> bytes:
    text = json.dumps(header)
    return (text[:-1] + f', "b": {json.dumps(header["b"])}}}').encode()


HOSTILE: dict[str, Body] = {
    "empty": lambda: b"",
    "eight bytes": lambda: bytes(8),
    "header beyond the end": lambda: struct.pack("<Q", 2**63) + bytes(100),
    "header of 90 MB": lambda: struct.pack("<Q", 90_000_000) + bytes(100),
    "no JSON": lambda: with_header(b"\xff" * 64, bytes(100)),
    "nested": lambda: with_header(b"[" * 60_000, b""),
    "many empty tensors": lambda: with_header(
        {f"{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}, b""
    ),
    "huge metadata": edited(lambda h: {**h, "__metadata__": {"x": "y" * 9000}}),
    "a name twice": edited(twice),
    "missing": other(lambda t: {n: t[n] for n in ("a", "c")}),
    "extra": other(lambda t: {**t, "d": t["b"]}),
    "renamed": other(lambda t: {"A": t["a"], "b": t["b"], "c": t["c"]}),
    "transposed": other(lambda t: {**t, "a": np.ascontiguousarray(t["a"].T)}),
    "flat": other(lambda t: {**t, "a": t["a"].reshape(-1)}),
    "float16": other(lambda t: {**t, "b": t["b"].astype(np.float16)}),
    "float64": other(lambda t: {**t, "b": t["b"].astype(np.float64)}),
    "int32": other(lambda t: {**t, "b": t["b"].astype(np.int32)}),
    "said to be int32": entry("b", dtype="I32"),
    "said to be bfloat16": entry("b", dtype="BF16"),
    "no type": entry("b", dtype="F33"),
    "negative shape": entry("b", shape=[-5]),
    "shape that overflows": entry("b", shape=[2**62, 2**62]),
    "empty shape that overflows": entry("b", shape=[0, 2**63]),
    "shape of thousand": entry("b", shape=[5] + [1] * 1000),
    "offsets that overlap": entry("b", data_offsets=[0, 20]),
    "offsets backwards": entry("b", data_offsets=[68, 48]),
    "offsets that overflow": entry("b", data_offsets=[48, 2**64 - 1]),
    "a byte more": lambda: write_adapter(sent(9)) + b"\0",
    "a byte less": lambda: write_adapter(sent(9))[:-1],
    "a megabyte more": lambda: write_adapter(sent(9)) + bytes(1 << 20),
    "NaN": holding(math.nan),
    "NaN first": holding(math.nan, "a", 0),
    "infinity": holding(math.inf),
    "minus infinity": holding(-math.inf, "b", 2),
    "largest": holding(3.4e38),
    "a little too far": holding(float(BEFORE["c"].flat[-1]) + 1.05 * REACH),
    "times 100": other(lambda t: {n: BEFORE[n] + 100 * (t[n] - BEFORE[n]) for n in t}),
    "times -100": other(lambda t: {n: BEFORE[n] - 100 * (t[n] - BEFORE[n]) for n in t}),
    "overflowing difference": other(lambda t: {n: np.full_like(x, -3.4e38) for n, x in t.items()}),
}


class Played:
    """A round of five honest sites, in which the sixth may send something else.

    Attributes:
        result: bytes of the next adapter.
        compared: what the event says of the sites beside each other.
        error: with which the sixth site's body was refused.
    """

    def __init__(self, folder: Path, rule: str, body: bytes | None) -> None:
        job = admitted(folder, WEIGHTS, aggregation={"rule": rule}, train=TRAIN,
                       network={"min_sites": 5})  # fmt: skip
        round_ = training_round(job, BEFORE)
        self.error: Exception | None = None
        for i, site in enumerate(WEIGHTS):
            honest = site != "wild"
            if not honest and body is None:
                continue
            try:
                update = round_.check(site, write_adapter(sent(i + 1)) if honest else body or b"")
            except Exception as error:
                assert not honest
                self.error = error
                continue
            round_.take(site, update)
        self.result = write_adapter(round_.result())
        self.compared = round_.compare()[1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_and_changes_nothing(
    name: str, rule: str, tmp_path: Path
) -> None:
    without, hostile = (Played(tmp_path, rule, body) for body in (None, HOSTILE[name]()))
    assert isinstance(hostile.error, AdapterMismatchError | UpdateBoundError)
    assert hostile.result == without.result
    assert hostile.compared == without.compared


def test_what_is_too_long_is_not_even_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(_data: bytes) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(adapter, "load", load)
    for name in ("many empty tensors", "huge metadata", "a megabyte more"):
        error = Played(tmp_path, "fedavg", HOSTILE[name]()).error
        assert isinstance(error, AdapterMismatchError), name
        assert "expected about" in error.message


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "moved",
    [REACH, -REACH, 0.0, -0.0, 1e-42, -1e-45],
    ids=["farthest", "farthest down", "zero", "minus zero", "denormal", "smallest"],
)
def test_an_extreme_update_that_passes_moves_little(
    rule: str, moved: float, tmp_path: Path
) -> None:
    """Clipped to what an Adam round is expected to reach, it weighs as its rows say, at most."""
    extreme = {name: (tensor + np.float32(moved)) for name, tensor in BEFORE.items()}
    without, played = (Played(tmp_path, rule, b) for b in (None, write_adapter(extreme)))
    assert played.error is None
    bound = TRAIN.learning_rate * 3  # of the mean number of an update that is clipped
    share = WEIGHTS["wild"] / sum(WEIGHTS.values())
    for name, tensor in adapter.read_adapter(played.result, SHAPES).items():
        honest = adapter.read_adapter(without.result, SHAPES)[name]
        apart = tensor - honest
        assert np.isfinite(tensor).all()
        assert np.sqrt(np.mean(np.square(apart))) <= share * (bound + 0.02), name


@pytest.mark.parametrize("rule", RULES)
def test_hundred_rounds_of_the_worst_stay_finite(rule: str, tmp_path: Path) -> None:
    """All sites but one at the very limit, up and down in turn: no sum leaves its range."""
    job = admitted(tmp_path, WEIGHTS, aggregation={"rule": rule, "norm_bound": "none"},
                   train=TRAIN)  # fmt: skip
    before, ratio, standings = BEFORE, FIRST_RATIO, {}
    for _ in range(100):
        round_ = training_round(job, before, ratio, standings)
        for site in WEIGHTS:
            far = {n: t + np.float32(REACH if site != "mid" else -REACH) for n, t in before.items()}
            round_.take(site, round_.check(site, write_adapter(far)))
        after = round_.result()
        standings, _ = round_.compare()
        for name, tensor in after.items():
            assert np.abs(tensor - before[name]).max() <= 1.01 * REACH, name
        before, ratio = dict(after), round_.norms.next_ratio


HONEST = write_adapter(sent(9))


EDITS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 300), st.integers(0, len(HONEST))),
        st.integers(0, 12),  # bytes cut out
        st.binary(max_size=12),  # put in instead
    ),
    min_size=1,
    max_size=4,
)


def mangled(edits: list[tuple[int, int, bytes]]) -> bytes:
    """An honest body in which bytes were changed, cut out or put in, mostly in the header."""
    data = bytearray(HONEST)
    for at, cut, put in edits:
        data[at : at + cut] = put
    return bytes(data)


@given(EDITS, st.binary(max_size=400), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_an_update_or_refused_by_name(
    edits: list[tuple[int, int, bytes]], noise: bytes, whole: bool
) -> None:
    """Never another error, and never an update whose numbers are out of bounds."""
    job = admitted(Path("-"), WEIGHTS, train=TRAIN)
    round_ = training_round(job, BEFORE)
    data = mangled(edits) if whole else noise
    try:
        update = round_.check("wild", data)
    except (AdapterMismatchError, UpdateBoundError):
        return
    assert {n: (t.shape, t.dtype) for n, t in update.items()} == {
        n: (s, np.float32) for n, s in SHAPES.items()
    }
    assert all(np.abs(t).max() <= 1.02 * REACH for t in update.values())
    assert math.isfinite(update.norm)


@pytest.mark.parametrize(
    ("rule", "needed"), [("median", 3), ("trimmed-mean", 5), ("multi-krum", 5)]
)
def test_too_few_answers_end_the_round_and_a_refused_update_is_none_too_few(
    rule: str, needed: int, tmp_path: Path
) -> None:
    """An attacker whose update was refused is one that the rule need not bear."""
    sites = list(WEIGHTS)[:needed]
    rows = {site: WEIGHTS[site] for site in sites}
    job = admitted(tmp_path, rows, aggregation={"rule": rule}, train=TRAIN)
    results = []
    for hostile in (False, True):
        round_ = training_round(job, BEFORE)
        for i, site in enumerate(sites[:-1]):
            round_.take(site, round_.check(site, write_adapter(sent(i + 1))))
        if not hostile:
            with pytest.raises(SiteLostError, match=f"{rule} needs {needed}"):
                round_.result()
            continue
        with pytest.raises(UpdateBoundError):
            round_.check(sites[-1], HOSTILE["NaN"]())
        results.append(round_.result(refused=1))
    honest = np.stack([sent(i + 1)["c"] - BEFORE["c"] for i in range(needed - 1)])
    weights = None if rule != "multi-krum" else [rows[site] for site in sites[:-1]]
    mean = BEFORE["c"] + np.average(honest, axis=0, weights=weights)
    assert np.allclose(results[0]["c"], mean, atol=1e-6)  # also the median of two
