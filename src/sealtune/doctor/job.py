"""What one job asks of a machine, by its manifest: the evidence of each role, times, addresses.

Signatures are not looked at: `sealtune job verify` does that. One request without content goes to
the coordinator, under the manifest's certificate; the answer's time is held against this clock.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sealtune.doctor.finding import Finding, State, found, safe
from sealtune.doctor.roles import EVIDENCE, NO_EVIDENCE, Colour, Role

if TYPE_CHECKING:
    from sealtune.job.manifest import Manifest

_PATIENCE = 10.0  # seconds for the coordinator to answer
_OFF = 2.0  # seconds between two clocks; the answer's time is in whole ones
_OF_MASKS = ("processor.int8", "processor.pads", "processor.library")
_CERTIFICATE = "coordinator.certificate"


@dataclass(frozen=True)
class Asked:
    """What a job asks.

    Attributes:
        findings: of the manifest and the coordinator.
        evidence: role -> what it shows, one of `EVIDENCE`; empty: any of several kinds of hardware.
        gpu: roles that must show a GPU, too.
        ports: at which the coordinator listens.
        changes: role -> what it needs of the machine besides, or does not need; see ``judge``.
    """

    findings: tuple[Finding, ...]
    evidence: Mapping[Role, str] = field(default_factory=dict)
    gpu: frozenset[Role] = frozenset()
    ports: tuple[int, ...] = ()
    changes: Mapping[Role, Mapping[str, Colour | None]] = field(default_factory=dict)


def asked_by(path: Path) -> Asked:
    """Read a manifest, and ask the coordinator that it names."""
    try:
        from sealtune.errors import SealtuneError
        from sealtune.job.dsse import Envelope
        from sealtune.job.manifest import open_manifest
    except ImportError as error:
        words = f"{path} cannot be read without packages: {error}"
        return Asked((Finding("manifest", State.UNKNOWN, words, "install sealtune's packages"),))
    try:
        manifest = open_manifest(Envelope.read(path))
    except SealtuneError as error:
        remedy = "get it again from whoever built it"
        return Asked((Finding("manifest", State.MISSING, error.message, remedy),))
    findings, ports = [_time(manifest)], tuple[int, ...]()
    if manifest.network is not None:
        from sealtune.job.network import host_and_port

        addresses = (manifest.network.sites_at, manifest.network.server_at)
        ports = tuple(host_and_port(address)[1] for address in addresses)
        findings += coordinator(*host_and_port(addresses[0]), manifest.network.certificate)
    gpu = {role for role in Role if manifest.appraisal.get(role, {}).get("gpu_required") is True}
    return Asked(tuple(findings), _evidence(manifest), frozenset(gpu), ports, _computing(manifest))


def _computing(manifest: Manifest) -> dict[Role, dict[str, Colour | None]]:
    """What follows from where the job computes, and how precisely."""
    from sealtune.job.compute_rules import GPU, is_gpu_stand_in

    settings = manifest.settings
    changes: dict[str, Colour | None] = {}
    if not settings.accelerated:
        changes |= dict.fromkeys(_OF_MASKS)
    if settings.compute == GPU:
        changes["gpu"] = Colour.AMBER if is_gpu_stand_in(settings) else Colour.RED
    elif settings.train.precision != "fp32":
        changes["processor.bf16"] = Colour.AMBER
    return {Role(settings.job.rules.trains): changes}


def _time(manifest: Manifest) -> Finding:
    begin, end = manifest.valid
    now = datetime.now(UTC)
    words = f"the manifest holds from {manifest.not_before} to {manifest.expires}"
    remedy = f"this clock says {now:%Y-%m-%dT%H:%M:%SZ}: set it, or build and sign a new manifest"
    return found("manifest", begin <= now <= end, words, remedy)


def _evidence(manifest: Manifest) -> dict[Role, str]:
    asked = {}
    for role in (Role.SITE, Role.SERVER):
        kinds = manifest.appraisal.get(role, {}).get("kinds")
        names = [kind for kind in kinds if kind in EVIDENCE] if isinstance(kinds, dict) else []
        if role not in manifest.appraisal:
            asked[role] = NO_EVIDENCE
        else:
            asked[role] = names[0] if len(names) == 1 else ""
    return asked


def coordinator(host: str, port: int, certificate: str) -> list[Finding]:
    """Whether the coordinator answers under this certificate (PEM), and what its clock says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=certificate)
    where = f"{host}:{port}"
    connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=context)
    try:
        before = time.time()
        connection.request("GET", "/")
        told = connection.getresponse().getheader("Date", "")
        here = (before + time.time()) / 2
    except ssl.SSLCertVerificationError as error:
        words = f"{where} shows another certificate than the manifest's: {error.verify_message}"
        remedy = "somebody stands between, the coordinator is another one, or this clock is wrong"
        return [Finding(_CERTIFICATE, State.MISSING, words, remedy)]
    except (OSError, http.client.HTTPException) as error:
        words = f"{where} does not answer: {error}"
        remedy = "start the coordinator; let connections to it out of the firewall"
        return [Finding("coordinator", State.MISSING, words, remedy)]
    finally:
        connection.close()
    return [
        Finding("coordinator", State.GOOD, f"{where} answers"),
        Finding(_CERTIFICATE, State.GOOD, "it shows the manifest's certificate"),
        _offset(here, told),
    ]


def _offset(here: float, told: str) -> Finding:
    key = "coordinator.clock"
    try:
        off = here - (parsedate_to_datetime(told).timestamp() + 0.5)  # cut to whole seconds
    except (OverflowError, TypeError, ValueError):
        return Finding(key, State.UNKNOWN, "it does not tell its time", "compare the clocks")
    words = f"this clock and the coordinator's are {abs(off):.1f} s apart"
    remedy = "set both clocks: chrony, or timedatectl set-ntp true"
    return safe(key, abs(off) <= _OFF, words, remedy, round(off, 1))
