"""job.resolved.json: nothing unsigned, altered or of another job is read."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import (
    ConfigError,
    DigestMismatchError,
    ManifestError,
    ManifestExpiredError,
    SignatureMissingError,
    SignatureWrongError,
    StorageError,
)
from sealtune.job.dsse import Envelope
from sealtune.job.manifest import job_id
from sealtune.job.resolved import read_resolved, write_resolved
from sealtune.job.storage import write_atomic
from tests.job.sample import JOB, KEYS, LABELS, MODEL, PLAN, make_manifest, sign_all


def write(path: Path) -> Path:
    write_resolved(
        path,
        job=JOB,
        labels=LABELS,
        plan=PLAN,
        model_digest=MODEL.digest,
        envelope=sign_all(make_manifest()),
    )
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "deep" / "job.resolved.json")


def test_reads_what_was_written(path: Path) -> None:
    found = read_resolved(path)
    assert (found.job, found.labels, found.plan) == (JOB, LABELS, PLAN)
    assert found.plan_digest == PLAN.digest
    assert found.manifest.keys.keys() == KEYS.keys()
    assert [p.name for p in path.parent.iterdir()] == ["job.resolved.json"]


def test_id_is_sha384_of_the_signed_bytes(path: Path) -> None:
    content = json.loads(path.read_bytes())
    payload = base64.b64decode(content["manifest"]["payload"])
    assert content["job_id"] == hashlib.sha384(payload).hexdigest() == read_resolved(path).job_id


def alter(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))


def job_with(section: str, **changes: Any) -> dict[str, Any]:
    content = JOB.model_dump(mode="json")
    content[section] |= changes
    return {"job": content}


def plan_with(**changes: Any) -> dict[str, Any]:
    plan = PLAN.model_copy(update=changes)
    return {"plan": plan.model_dump(mode="json"), "plan_digest": plan.digest}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (job_with("train", learning_rate=0.5), "train.learning_rate"),
        (job_with("sites", names=["north", "east"]), "sites.names"),
        (job_with("data", template="{b}"), "data.template"),
        (job_with("protection", protect="insecure-none"), "protection.protect"),
        ({"labels": ["a", "c"]}, "labels"),
        ({"model_digest": "ac"}, "model digest"),
        (plan_with(protect="insecure-none"), "slice plan"),
        ({"job_id": "0" * 96}, "is not the digest of its manifest"),
    ],
)
def test_what_is_not_as_signed_is_refused(path: Path, change: dict[str, Any], words: str) -> None:
    alter(path, change)
    with pytest.raises(DigestMismatchError, match=words):
        read_resolved(path)


@pytest.mark.parametrize(
    "change",
    [
        job_with("data", train="/elsewhere.csv", test="/e.csv", labels=["a", "ß"]),
        job_with("model", path="/other"),
    ],
)
def test_places_are_this_machines_own(path: Path, change: dict[str, Any]) -> None:
    before = read_resolved(path)
    alter(path, change)
    assert read_resolved(path).job_id == before.job_id


def test_signatures_and_time_are_verified_by_every_reader(path: Path) -> None:
    envelope = sign_all(make_manifest())
    short = Envelope(envelope.payload_type, envelope.payload, envelope.signatures[:1])
    alter(path, {"manifest": short.to_object()})
    with pytest.raises(SignatureMissingError):
        read_resolved(path)
    swapped = [
        replace(one, sig=other.sig)
        for one, other in zip(envelope.signatures, envelope.signatures[::-1], strict=True)
    ]
    alter(path, {"manifest": replace(envelope, signatures=tuple(swapped)).to_object()})
    with pytest.raises(SignatureWrongError):
        read_resolved(path)
    alter(path, {"manifest": envelope.to_object()})
    assert read_resolved(path).job_id == job_id(envelope.payload)
    with pytest.raises(ManifestExpiredError):
        read_resolved(path, at=datetime(2100, 1, 1, tzinfo=UTC))


def test_nothing_unsigned_is_written(tmp_path: Path) -> None:
    envelope = replace(sign_all(make_manifest()), signatures=())
    path = tmp_path / "x.json"
    with pytest.raises(SignatureMissingError):
        write_resolved(
            path,
            job=JOB,
            labels=LABELS,
            plan=PLAN,
            model_digest=MODEL.digest,
            envelope=envelope,
        )
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra": 1}, "exactly the keys"),
        ({"format": 3}, "has format 3"),
        ({"format": True}, "has format True"),
        ({"labels": [1]}, "list of texts"),
        ({"model_digest": 3}, "hex digits"),
        ({"plan_digest": "00"}, "does not match its plan"),
        ({"job": {"job": {}}}, r"Job\.job\.name"),
        ({"plan": {}}, r"SlicePlan\.architecture"),
    ],
)
def test_malformed_contents_are_refused(path: Path, change: dict[str, Any], words: str) -> None:
    alter(path, change)
    with pytest.raises(ConfigError, match=words):
        read_resolved(path)


@pytest.mark.parametrize("value", [None, [], "x", {}, {"payload": "", "payloadType": ""}])
def test_malformed_envelope(path: Path, value: object) -> None:
    alter(path, {"manifest": value})
    with pytest.raises(ManifestError):
        read_resolved(path)


def test_a_file_of_the_version_without_manifests(path: Path) -> None:
    content = json.loads(path.read_bytes()) | {"format": 1}
    del content["manifest"]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="older version"):
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
