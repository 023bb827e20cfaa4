"""What a party's own file says of the TEE hardware below it; loaded where it says something.

Trust domain: every enclave on hardware, or on a TEE in software in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sealtune.attest import AppraisalPolicy
from sealtune.attest.evidence import MAX_PART, Kind
from sealtune.attest.platforms.base import MACHINE
from sealtune.errors import ConfigError, Problem
from sealtune.job.local import Local
from sealtune.job.manifest import Manifest
from sealtune.job.method import Attested
from sealtune.job.storage import read_bounded


def devices(
    manifest: Manifest, role: Attested, policies: Mapping[str, AppraisalPolicy], given: Path | None
) -> Path:
    """The root of the file system with this machine's devices.

    Args:
        policies: of ``accepted_evidence``.
        given: a folder in its place.

    Raises:
        ConfigError: no insecure test root is accepted of ``role``, so nothing may take its place.
    """
    if given is None:
        return MACHINE
    kind = Kind(manifest.settings.protection.evidence(role)) if role in policies else None
    if kind is None or policies[role].kinds[kind].insecure_test_root is None:
        words = f"the manifest accepts no insecure_test_root of the {role}"
        raise ConfigError("the local file", [Problem("evidence_root", words)], hint="leave it out")
    return given


def read_collateral(local: Local) -> bytes:
    """Vendor data to go with own evidence; its vendor has signed it.

    Raises:
        ConfigError: it cannot be read.
    """
    if local.collateral is None:
        return b""

    def failure(words: str) -> ConfigError:
        problem = Problem("collateral", f"{local.collateral} {words}")
        return ConfigError(f"local file of the {local.name}", [problem])

    return read_bounded(local.collateral, MAX_PART, failure)
