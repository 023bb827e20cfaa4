"""``job.resolved.json``: the job with everything decided, under an id that all sides agree on.

    {"format": 1, "job": {...}, "labels": [...], "plan": {...}, "plan_digest": hex,
     "model_digest": hex, "job_id": hex}

``job_id`` is the SHA-384 of the RFC 8785 bytes of everything else. RFC 8785 gives one JSON object
exactly one byte string, so two sides that agree on the id agree on every setting.

Trust domain: every process; what an enclave reads here it has checked against the id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from pydantic import ValidationError

from sealtune.errors import ConfigError, Problem
from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job
from sealtune.job.storage import write_atomic

FORMAT = 1
MAX_BYTES = 16 << 20
KEYS = frozenset({"format", "job", "labels", "plan", "plan_digest", "model_digest", "job_id"})


@dataclass(frozen=True)
class Resolved:
    """A checked ``job.resolved.json``.

    Attributes:
        job: the settings, with absolute paths.
        labels: class names in the order of their numbers; empty for ``causal-lm``.
        plan: where each module runs.
        model_digest: hex digest of the base model.
        job_id: SHA-384, 96 hex digits.
    """

    job: Job
    labels: tuple[str, ...]
    plan: SlicePlan
    model_digest: str
    job_id: str

    @property
    def plan_digest(self) -> str:
        """Digest of the plan, hex."""
        return self.plan.digest


def resolved_bytes(content: Mapping[str, Any]) -> bytes:
    """RFC 8785 bytes of ``content`` without its ``job_id``.

    Raises:
        ConfigError: a value that canonical JSON cannot hold (NaN, an integer beyond 2^53).
    """
    try:
        return rfc8785.dumps({k: v for k, v in content.items() if k != "job_id"})
    except rfc8785.CanonicalizationError as error:
        raise _fault(
            "job.resolved.json", f"cannot be written as canonical JSON: {error}"
        ) from error


def job_id(content: Mapping[str, Any]) -> str:
    """SHA-384 (hex) of ``resolved_bytes``."""
    return hashlib.sha384(resolved_bytes(content)).hexdigest()


def write_resolved(
    path: Path, *, job: Job, labels: tuple[str, ...], plan: SlicePlan, model_digest: str
) -> Resolved:
    """Write ``job.resolved.json`` atomically and return what a reader will see.

    Raises:
        StorageError: the file cannot be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "job": job.model_dump(mode="json"),
        "labels": list(labels),
        "plan": plan.model_dump(mode="json"),
        "plan_digest": plan.digest,
        "model_digest": model_digest,
    }
    content["job_id"] = job_id(content)
    write_atomic(path, rfc8785.dumps(content))
    return Resolved(job, labels, plan, model_digest, content["job_id"])


def read_resolved(path: Path) -> Resolved:
    """Read ``job.resolved.json`` and verify its id, its plan's digest and every setting.

    Raises:
        ConfigError: missing, malformed, of another format, or changed since it was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _fault(str(path), f"cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise _fault(str(path), f"is {len(data)} bytes long, at most {MAX_BYTES} are allowed")
    content = _parse(path, data)
    if not hmac.compare_digest(job_id(content).encode(), content["job_id"].encode()):
        raise _fault(
            str(path), "its job_id does not match its contents: it was changed after it was written"
        )
    try:
        job = Job.model_validate_json(json.dumps(content["job"]))
        plan = SlicePlan.model_validate_json(json.dumps(content["plan"]))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _fault(str(path), f"{error.title}.{where}: {first['msg']}") from error
    if plan.digest != content["plan_digest"]:
        raise _fault(str(path), "its plan_digest does not match its plan")
    return Resolved(job, tuple(content["labels"]), plan, content["model_digest"], content["job_id"])


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands there twice")
        return result

    try:
        content = json.loads(data, object_pairs_hook=distinct)
    except (ValueError, RecursionError) as error:
        raise _fault(str(path), f"is not JSON: {error}") from error
    if not isinstance(content, dict) or set(content) != KEYS:
        raise _fault(str(path), f"must have exactly the keys {', '.join(sorted(KEYS))}")
    if content["format"] != FORMAT or isinstance(content["format"], bool):
        raise _fault(str(path), f"has format {content['format']}, this version reads {FORMAT}")
    labels = content["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _fault(str(path), "labels must be a list of texts")
    for key in ("plan_digest", "model_digest", "job_id"):
        if not isinstance(content[key], str) or not content[key].isascii():
            raise _fault(str(path), f"{key} must be hex digits")
    return content


def _fault(source: str, message: str) -> ConfigError:
    return ConfigError(
        source, [Problem("file", message)], hint="start the run anew from its job.toml"
    )
