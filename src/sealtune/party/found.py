"""What lies on a machine of a job, held against the manifest: by a program, or before signing.

Trust domain: every process that holds a part of a job; a participant's own machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from sealtune.errors import DigestMismatchError
from sealtune.job.manifest import DataIdentity, Manifest, ModelIdentity
from sealtune.job.plan import SlicePlan
from sealtune.job.settings import Settings


@dataclass(frozen=True)
class Found:
    """What lies on this machine of a job, as far as somebody has looked; None: not looked at.

    Attributes:
        labels: of the training data.
        model: name and digests.
        plan: worked out from the model.
        data: site -> digests.
    """

    labels: tuple[str, ...] | None = None
    model: ModelIdentity | None = None
    plan: SlicePlan | None = None
    data: Mapping[str, DataIdentity] = field(default_factory=dict)


def check_found(manifest: Manifest, found: Found) -> list[str]:
    """Hold what lies here against what was signed.

    Returns:
        what was found equal, in words.

    Raises:
        DigestMismatchError: lists everything that differs.
    """
    pairs: list[tuple[str, object, object]] = []
    if found.labels is not None:
        pairs.append(("labels", found.labels, manifest.labels))
    if found.model is not None:
        signed = manifest.model
        pairs.append(("model", found.model.digest, signed.digest))
        pairs.append(("tokenizer", found.model.tokenizer_digest, signed.tokenizer_digest))
    if found.plan is not None:
        pairs.append(("slice plan", found.plan.digest, manifest.plan_digest))
    for site, data in found.data.items():
        own = manifest.data.get(site)
        for part in DataIdentity.model_fields:
            pairs.append((f"data.{site}.{part}", getattr(data, part), getattr(own, part, None)))
    _refuse([what for what, here, there in pairs if here != there])
    return [what for what, _, _ in pairs]


def check_settings(manifest: Manifest, settings: Settings) -> None:
    """Raise DigestMismatchError, with all keys that differ, unless these are the signed ones."""
    _refuse(differences(manifest.settings, settings))


def differences(ours: BaseModel, theirs: BaseModel) -> list[str]:
    """Dotted keys whose values differ, such as ``train.learning_rate``."""
    return differing(ours.model_dump(mode="json"), theirs.model_dump(mode="json"))


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The same of what has become JSON; what only one side has, by the name of its table."""
    keys = []
    for name in ours | theirs:
        here, there = ours.get(name), theirs.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            keys += [f"{name}.{key}" for key in here if here[key] != there.get(key)]
        elif here != there:
            keys.append(name)
    return keys


def _refuse(differing: list[str]) -> None:
    if differing:
        raise DigestMismatchError(
            f"what lies here is not what was signed; these differ: {', '.join(differing)}",
            hint="do not sign or start before you know why; restore what was signed, or build and "
            "sign a new manifest",
        )
