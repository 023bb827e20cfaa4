"""job.resolved.json: one id for one contents; nothing altered is read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import ConfigError, StorageError
from sealtune.job import Job
from sealtune.job.plan import Backbone, SlicePlan
from sealtune.job.resolved import job_id, read_resolved, resolved_bytes, write_resolved
from sealtune.job.storage import write_atomic

JOB = Job.model_validate(
    {
        "job": {"name": "demo", "seed": 2**32 - 1},
        "model": {"path": "/m"},
        "data": {"train": "/d/é.csv", "test": "/d/t.csv"},
        "sites": {"names": ["north", "south"], "partition": "dirichlet"},
        "train": {"learning_rate": 1e-7},
    }
)
PLAN = SlicePlan(
    architecture="LlamaForCausalLM",
    protect="adapter+data",
    blocks=2,
    prefix_blocks=0,
    modules=(),
    groups=(),
    trainable={"a": (2, 3)},
    backbone=Backbone(path="/b", tensors={"w": "00"}),
)


def write(folder: Path) -> Path:
    path = folder / "job.resolved.json"
    write_resolved(path, job=JOB, labels=("a", "ß"), plan=PLAN, model_digest="ab")
    return path


def test_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "job.resolved.json"
    wrote = write_resolved(path, job=JOB, labels=("a", "b"), plan=PLAN, model_digest="ab")
    assert read_resolved(path) == wrote
    assert wrote.job == JOB
    assert wrote.plan_digest == PLAN.digest
    assert [p.name for p in path.parent.iterdir()] == ["job.resolved.json"]


def test_id_is_sha384_of_canonical_json(tmp_path: Path) -> None:
    content = json.loads(write(tmp_path).read_bytes())
    canonical = resolved_bytes(content)
    assert content["job_id"] == hashlib.sha384(canonical).hexdigest()
    assert b'"job_id"' not in canonical
    assert canonical.startswith(b'{"format":1,"job":{"data":{"label":"label"')


def test_id_of_a_known_object() -> None:
    # keys sorted, numbers as in ECMAScript, no white space: RFC 8785
    content = {"b": [1.0, 1e21, "é"], "a": None, "job_id": "not counted"}
    assert resolved_bytes(content) == '{"a":null,"b":[1,1e+21,"é"]}'.encode()
    assert job_id(content) == hashlib.sha384('{"a":null,"b":[1,1e+21,"é"]}'.encode()).hexdigest()


@settings(deadline=None)
@given(st.permutations(["x", "y", "z", "job"]))
def test_id_does_not_depend_on_key_order(keys: list[str]) -> None:
    assert job_id(dict.fromkeys(keys, 1)) == job_id({"job": 1, "x": 1, "y": 1, "z": 1})


@pytest.mark.parametrize("value", [float("nan"), 2**60])
def test_what_canonical_json_cannot_hold(value: float) -> None:
    with pytest.raises(ConfigError, match="canonical JSON"):
        job_id({"a": value})


def alter(path: Path, change: dict[str, Any], *, sign: bool = False) -> None:
    content = json.loads(path.read_bytes())
    content.update(change)
    if sign:
        content["job_id"] = job_id(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [{"labels": ["a", "c"]}, {"model_digest": "ac"}, {"job_id": "0" * 96}, {"plan_digest": "00"}],
)
def test_altered_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path)
    alter(path, change)
    with pytest.raises(ConfigError, match="changed after it was written"):
        read_resolved(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": 1}, "exactly the keys"),
        ({"format": 2}, "has format 2"),
        ({"format": True}, "has format True"),
        ({"labels": [1]}, "list of texts"),
        ({"model_digest": 3}, "hex digits"),
        ({"plan_digest": "00"}, "does not match its plan"),
        ({"job": {"job": {}}}, r"Job\.job\.name"),
        ({"plan": {}}, r"SlicePlan\.architecture"),
    ],
)
def test_malformed_contents_are_refused_though_signed(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = write(tmp_path)
    alter(path, change, sign=True)
    with pytest.raises(ConfigError, match=words):
        read_resolved(path)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":1,"a":2}', b"\xff", b"[" * 100_000])
def test_other_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "job.resolved.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read_resolved(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_resolved(tmp_path / "none.json")


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(tmp_path / "folder", b"x")
    with pytest.raises(StorageError, match="cannot write"):
        write_atomic(Path("/proc/none/x"), b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
