"""``job.resolved.json``: the job with everything decided, and the signed manifest behind it.

    {"format": 2, "job": {...}, "labels": [...], "plan": {...}, "plan_digest": hex,
     "model_digest": hex, "manifest": {DSSE envelope}, "job_id": hex}

``job_id`` is the SHA-384 of the manifest's bytes. The manifest is signed and names no place; this
file adds the places on one machine. What it repeats from the manifest must be the same, and what
lies at the places is held against the manifest's digests when it is loaded.

Trust domain: every process; an enclave verifies the signatures for itself by reading it.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import rfc8785
from pydantic import ValidationError

from sealtune.errors import ConfigError, DigestMismatchError, ModelError, Problem
from sealtune.job.dsse import Envelope
from sealtune.job.manifest import Manifest, job_id, verify_manifest
from sealtune.job.plan import SlicePlan
from sealtune.job.settings import Settings
from sealtune.job.spec import Job, SplitSpec
from sealtune.job.storage import write_atomic

FORMAT = 2
MAX_BYTES = 32 << 20
KEYS = frozenset(
    {"format", "job", "labels", "plan", "plan_digest", "model_digest", "manifest", "job_id"}
)


@dataclass(frozen=True)
class Resolved:
    """A checked ``job.resolved.json``.

    Attributes:
        job: the settings, with absolute paths.
        labels: class names in the order of their numbers; empty for ``causal-lm``.
        plan: where each module runs.
        model_digest: hex digest of the base model.
        manifest: what every participant signed; all of the above agrees with it.
        job_id: SHA-384 of the manifest's bytes, 96 hex digits.
    """

    job: Job
    labels: tuple[str, ...]
    plan: SlicePlan
    model_digest: str
    manifest: Manifest
    job_id: str

    @property
    def cut(self) -> int:
        """Blocks at the sites of a split job.

        Raises:
            ModelError: the slice plan is another method's.
        """
        if self.plan.cut is None:
            raise ModelError("the slice plan is not that of a split job")
        return self.plan.cut

    @property
    def split(self) -> SplitSpec:
        """The section ``[split]``, which every split job has.

        Raises:
            ModelError: the job is of another method.
        """
        return self.job.split_settings

    @property
    def plan_digest(self) -> str:
        """Digest of the plan, hex."""
        return self.plan.digest


def write_resolved(
    path: Path,
    *,
    job: Job,
    labels: tuple[str, ...],
    plan: SlicePlan,
    model_digest: str,
    envelope: Envelope,
) -> Resolved:
    """Write ``job.resolved.json`` atomically and return what a reader will see.

    Args:
        envelope: the manifest, signed by every participant.

    Raises:
        ManifestError: the manifest is not signed by all, not valid now, or of another job.
        StorageError: the file cannot be written.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "job": job.model_dump(mode="json"),
        "labels": list(labels),
        "plan": plan.model_dump(mode="json"),
        "plan_digest": plan.digest,
        "model_digest": model_digest,
        "manifest": envelope.to_object(),
        "job_id": job_id(envelope.payload),
    }
    resolved = Resolved(
        job, labels, plan, model_digest, verify_manifest(envelope), content["job_id"]
    )
    check_agreement(resolved)
    write_atomic(path, rfc8785.dumps(content))
    return resolved


def read_resolved(path: Path, *, at: datetime | None = None) -> Resolved:
    """Read ``job.resolved.json``; verify the manifest's signatures and that everything agrees.

    Args:
        at: time at which the manifest must be valid; default: now.

    Raises:
        ConfigError: missing, malformed, or of another format.
        ManifestError: the manifest was refused, or the file says otherwise than the manifest.
    """
    content = _parse(path, _read(path))
    envelope = Envelope.from_object(content["manifest"])
    manifest = verify_manifest(envelope, at=at)
    try:
        job = Job.model_validate_json(json.dumps(content["job"]))
        plan = SlicePlan.model_validate_json(json.dumps(content["plan"]))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _fault(str(path), f"{error.title}.{where}: {first['msg']}") from error
    if plan.digest != content["plan_digest"]:
        raise _fault(str(path), "its plan_digest does not match its plan")
    if not hmac.compare_digest(job_id(envelope.payload).encode(), content["job_id"].encode()):
        raise DigestMismatchError(f"{path}: its job_id is not the digest of its manifest")
    labels = tuple(content["labels"])
    resolved = Resolved(job, labels, plan, content["model_digest"], manifest, content["job_id"])
    check_agreement(resolved)
    return resolved


def check_agreement(resolved: Resolved) -> None:
    """Hold what was decided on this machine against what was signed.

    Raises:
        DigestMismatchError: lists everything that differs.
    """
    manifest = resolved.manifest
    wrong = manifest.settings.differences(Settings.of(resolved.job))
    for name, mine, signed in (
        ("labels", resolved.labels, manifest.labels),
        ("model digest", resolved.model_digest, manifest.model.digest),
        ("slice plan", resolved.plan_digest, manifest.plan_digest),
    ):
        if mine != signed:
            wrong.append(name)
    if wrong:
        raise DigestMismatchError(
            f"the signed manifest is of another job; these differ: {', '.join(wrong)}",
            hint="use the job file, model and version that the manifest was built from, or build "
            "and sign a new one",
        )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _fault(str(path), f"cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise _fault(str(path), f"has more than {MAX_BYTES} bytes")
    return data


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
    if isinstance(content, dict) and content.get("format") == 1 and "manifest" not in content:
        raise _fault(str(path), "is of an older version, without a signed manifest")
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
