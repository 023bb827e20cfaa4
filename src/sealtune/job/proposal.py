"""Make a job's manifest, and sign it.

Trust domain: whoever builds a manifest; every participant checks what is signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.errors import DigestMismatchError
from sealtune.job.dp_terms import DpTerms
from sealtune.job.dsse import Envelope, Signature, pae, verify_present
from sealtune.job.keys import fingerprint
from sealtune.job.manifest import (
    PAYLOAD_TYPE,
    TIME,
    DataIdentity,
    Manifest,
    ModelIdentity,
    Participant,
    Release,
    canonical,
    check_terms,
    manifest_bytes,
    open_manifest,
    parse_manifest,
)
from sealtune.job.network import NetworkIdentity
from sealtune.job.pad_operators import PadAccelerator
from sealtune.job.plan import SlicePlan
from sealtune.job.settings import Settings


def make_manifest(
    settings: Settings,
    *,
    labels: tuple[str, ...],
    model: ModelIdentity,
    plan: SlicePlan,
    data: Mapping[str, DataIdentity],
    participants: tuple[Participant, ...],
    code: Mapping[str, str],
    appraisal: Mapping[str, Any],
    dp: DpTerms | None = None,
    network: NetworkIdentity | None = None,
    pad_accelerators: Mapping[str, PadAccelerator] | None = None,
    release: Release = "participants",
    epoch: int = 5,
    not_before: datetime | None = None,
    valid: timedelta = timedelta(days=30),
) -> Manifest:
    """A manifest, checked as if it came from outside.

    Raises:
        MalformedManifestError: the parts do not go together.
        UnsupportedTermsError: a release rule that the enclaves cannot keep.
    """
    begin = (not_before or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
    backbone = plan.backbone.model_copy(update={"path": ""})
    content = {
        "format": 5,
        "method": settings.job.rules.name,
        "settings": settings.model_dump(mode="json"),
        "labels": list(labels),
        "model": model.model_dump(mode="json"),
        "plan": plan.model_copy(update={"backbone": backbone}).model_dump(mode="json"),
        "plan_digest": plan.digest,
        "code": dict(code),
        "appraisal": dict(appraisal),
        "data": {site: one.model_dump(mode="json") for site, one in data.items()},
        "participants": [one.model_dump(mode="json") for one in participants],
        "network": None if network is None else network.model_dump(mode="json"),
        "pad_accelerators": {
            site: one.model_dump(mode="json") for site, one in (pad_accelerators or {}).items()
        },
        # as many as sites are needed, where there are so many
        "min_cohort": max(
            min(settings.quorum, len(participants)),
            settings.job.rules.least_cohort(len(participants)),
        ),
        "dp": None if dp is None else dp.model_dump(mode="json"),
        "release": release,
        "epoch": epoch,
        "not_before": begin.strftime(TIME),
        "expires": (begin + valid).strftime(TIME),
    }
    manifest = parse_manifest(canonical(content))
    check_terms(manifest)
    return manifest


def wrap(manifest: Manifest) -> Envelope:
    """An envelope of ``manifest`` that nobody has signed yet."""
    return Envelope(PAYLOAD_TYPE, manifest_bytes(manifest))


def sign(envelope: Envelope, key: Ed25519PrivateKey) -> Envelope:
    """``envelope`` with the signature of ``key`` added; one that is there already is replaced."""
    keyid = fingerprint(key.public_key())
    made = Signature(keyid, key.sign(pae(envelope.payload_type, envelope.payload)))
    others = tuple(one for one in envelope.signatures if one.keyid != keyid)
    return replace(envelope, signatures=(*others, made))


def join(copies: Mapping[str, Envelope]) -> Envelope:
    """One envelope with the signatures of all ``copies`` of a manifest, in its participants' order.

    Args:
        copies: what each is called, for messages -> envelope.

    Raises:
        DigestMismatchError: they are not all of the same bytes.
        ManifestError: one is no manifest, or has a signature that is a stranger's or wrong.
    """
    names = list(copies)
    first = copies[names[0]]
    manifest = open_manifest(first)
    signatures: dict[str, Signature] = {}
    for name, envelope in copies.items():
        if (envelope.payload_type, envelope.payload) != (first.payload_type, first.payload):
            raise DigestMismatchError(
                f"{name} is not a copy of the manifest in {names[0]}: they are two jobs",
                hint="signatures of one job are joined; everybody signs the same file",
            )
        verify_present(envelope, manifest.keys)
        signatures |= {one.keyid: one for one in envelope.signatures}
    order = [fingerprint(key) for key in manifest.keys.values()]
    return replace(first, signatures=tuple(signatures[k] for k in order if k in signatures))
