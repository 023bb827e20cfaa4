"""Evidence, what it proves, and the two interfaces around it.

A verifier draws a nonce; an `Attester` answers it with `Evidence` over 64 bytes of report data; a
`Verifier` turns the evidence into `Claims` or raises. The report data tie one piece of evidence to
one challenge, one job, one role and one fresh public key (`report_data`), so that evidence of
another job, of an earlier run or of another party is worthless.

Wire format, little-endian, nothing may follow:

    magic "STEV" | version u8 | kind u8 | zero u16 | data u32 | endorsements u32 | gpu u32 | bytes…

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SerializeAsAny,
    StringConstraints,
)

from sealtune.attest.errors import (
    MalformedEvidenceError,
    OversizeEvidenceError,
    TrailingBytesError,
)
from sealtune.frames import length_prefixed

if TYPE_CHECKING:
    from sealtune.attest.platforms.sev_snp.state import SnpState
    from sealtune.attest.policy import AppraisalPolicy
else:
    SnpState = SerializeAsAny[InstanceOf[BaseModel]]  # loaded with its kind alone

Hex = Annotated[
    str,
    StringConstraints(pattern=r"^([0-9a-fA-F]{2})+$", max_length=256),
    AfterValidator(str.lower),
]
Any = Literal["any"]
Firmware = Literal["driver", "vbios"]  # of a GPU

REPORT_DATA_SIZE = 64  # bytes; the size in SGX, TDX and SEV-SNP alike
NONCE_SIZE = 32
DOMAIN = "sealtune/attest/v2"

MAGIC = b"STEV"
VERSION = 1
HEADER = struct.Struct("<4sBBHIII")
# A TDX quote is about 5 kB, its collateral 20 kB, evidence of eight GPUs 130 kB.
MAX_PART = 1 << 20
MAX_EVIDENCE = HEADER.size + 3 * MAX_PART


class Kind(StrEnum):
    """What made the evidence; the order is that of the codes on the wire.

    `SIMULATED` proves nothing about hardware; `PARTICIPANT` is an organisation's signature, which
    proves who answers and nothing of what runs there (`sealtune.attest.platforms.participant`);
    `UNATTESTED` is no evidence at all, where none is asked for.
    """

    SIMULATED = "simulated"
    SGX = "sgx"
    TDX = "tdx"
    SEV_SNP = "sev-snp"
    NVIDIA_GPU = "nvidia-gpu"
    PARTICIPANT = "participant"
    UNATTESTED = "unattested"

    @property
    def confidential(self) -> bool:
        """Whether hardware keeps the operator out."""
        return self not in (Kind.SIMULATED, Kind.PARTICIPANT, Kind.UNATTESTED)


_KINDS = dict(enumerate(Kind))  # by their code on the wire
_CODES = {kind: code for code, kind in _KINDS.items()}


@dataclass(frozen=True)
class Evidence:
    """What a party shows to prove which code it runs.

    Attributes:
        kind: selects the verifier; a claim of the sender until that verifier has agreed.
        data: the signed quote or report.
        endorsements: vendor certificates or collateral sent along. They carry the vendor's own
            signatures, so it does not matter who delivers them.
        gpu: evidence of the machine's GPUs; its digest is part of the report data.
    """

    kind: Kind
    data: bytes
    endorsements: bytes = b""
    gpu: bytes = b""

    def encode(self) -> bytes:
        """The evidence in its wire format.

        Raises:
            OversizeEvidenceError: a part is larger than any reader would accept.
        """
        parts = (self.data, self.endorsements, self.gpu)
        _check_sizes([len(part) for part in parts])
        head = HEADER.pack(MAGIC, VERSION, _CODES[self.kind], 0, *(len(part) for part in parts))
        return head + b"".join(parts)

    @classmethod
    def decode(cls, raw: bytes) -> Evidence:
        """Parse exactly one piece of evidence.

        Raises:
            MalformedEvidenceError: wrong magic, version or kind, or cut short.
            TrailingBytesError: bytes follow.
            OversizeEvidenceError: larger than `MAX_EVIDENCE`, or a part larger than `MAX_PART`.
        """
        if len(raw) > MAX_EVIDENCE:
            raise OversizeEvidenceError(f"evidence of {len(raw)} bytes, limit {MAX_EVIDENCE}")
        if len(raw) < HEADER.size:
            raise MalformedEvidenceError(f"evidence of {len(raw)} bytes is cut short")
        magic, version, code, zero, *sizes = HEADER.unpack_from(raw)
        if magic != MAGIC or zero != 0:
            raise MalformedEvidenceError("not sealtune evidence: wrong magic or reserved field")
        if version != VERSION:
            raise MalformedEvidenceError(f"evidence version {version}, this is version {VERSION}")
        if code not in _KINDS:
            raise MalformedEvidenceError(f"unknown kind of evidence, code {code}")
        _check_sizes(sizes)
        end = HEADER.size + sum(sizes)
        if len(raw) < end:
            raise MalformedEvidenceError(f"evidence of {len(raw)} bytes should have {end}")
        if len(raw) > end:
            raise TrailingBytesError(f"{len(raw) - end} bytes follow the evidence")
        first, second = HEADER.size + sizes[0], HEADER.size + sizes[0] + sizes[1]
        return cls(_KINDS[code], raw[HEADER.size : first], raw[first:second], raw[second:])


def _check_sizes(sizes: list[int]) -> None:
    for name, size in zip(("data", "endorsements", "gpu"), sizes, strict=True):
        if size > MAX_PART:
            raise OversizeEvidenceError(f"evidence {name} of {size} bytes, limit {MAX_PART}")


class Claims(BaseModel):
    """What verified evidence says. Only verifiers make these; hex is lower case.

    Attributes:
        kind: the kind of evidence.
        confidential: false where no hardware stands behind it.
        measurement: digest of the enclave's code (MRENCLAVE, MRTD, launch measurement, ...).
        signer: who signed the code (MRSIGNER, ID key digest, development key), or empty.
        svn: the code's security version.
        tcb_status: the verdict on the platform's firmware ("UpToDate", ...; see the policy).
        advisories: security advisories that apply to the platform.
        debug: whether the enclave can be debugged from outside.
        report_data: the 64 bytes that tie the evidence to a challenge.
        features: properties of the machine that a policy must allow by name ("smt", ...).
        platform: identity of the machine (PPID, chip id, GPU serial), or empty.
        verified_at: the time for which the appraisal holds.
        product_id: of an SGX enclave, chosen by its signer.
        td_module: digest of the TDX module (MRSEAM), or empty.
        firmware: versions of what a GPU runs ("driver", "vbios").
        snp: what only SEV-SNP has.
        gpu: claims of the machine's GPUs.
        details: further fields for people to read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    confidential: bool
    measurement: str
    signer: str = ""
    svn: int = 0
    tcb_status: str
    advisories: tuple[str, ...] = ()
    debug: bool
    report_data: str
    features: tuple[str, ...] = ()
    platform: str = ""
    verified_at: datetime
    product_id: int = 0
    td_module: str = ""
    firmware: Mapping[str, str] = Field(default_factory=dict)
    snp: SnpState | None = None
    gpu: tuple[Claims, ...] = ()
    details: Mapping[str, str] = Field(default_factory=dict)


class Attester(Protocol):
    """Makes evidence about the process it runs in."""

    @property
    def kind(self) -> Kind:
        """The kind of evidence made here."""

    def collect(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes.

        Raises:
            AttesterUnavailableError: the machine lacks something; the message says what.
        """

    def collect_gpu(self, nonce: bytes) -> bytes:
        """Evidence of the GPUs over a 32-byte nonce; empty where none takes part."""


class Verifier(Protocol):
    """Turns evidence into claims."""

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """Check everything and return what was proved.

        Args:
            evidence: as it came in.
            report_data: the 64 bytes that it must be over.
            policy: what is acceptable.
            at: the time for which the appraisal is to hold (aware datetime).

        Raises:
            AttestationError: one of the classes in `sealtune.attest.errors`.
        """


def report_data(
    domain: str,
    role: str,
    *,
    nonce: bytes,
    job_id: bytes,
    public_key: bytes,
    context: bytes = b"",
    gpu_evidence_digest: bytes = b"",
) -> bytes:
    """The 64 bytes that evidence is made over.

    Args:
        domain: protocol and version, `DOMAIN` outside tests.
        role: "server" or "client:<site>"; evidence cannot be reflected to the other side.
        nonce: 32 bytes drawn by the verifier.
        job_id: SHA-384 of the job.
        public_key: the fresh key that secrets will be sealed to.
        context: digest of who the evidence is for and of what was said before it, so that it
            serves in this one conversation; nothing where there is none.
        gpu_evidence_digest: SHA-256 of the GPU evidence, or nothing where there is none.
    """
    parts = (nonce, job_id, public_key, context, gpu_evidence_digest)
    return hashlib.sha512(length_prefixed(domain.encode(), role.encode(), *parts)).digest()


def gpu_nonce(role: str, nonce: bytes, job_id: bytes, public_key: bytes) -> bytes:
    """The 32 bytes that GPU evidence is made over: same challenge, same key, own domain."""
    parts = (f"{DOMAIN}/gpu".encode(), role.encode(), nonce, job_id, public_key)
    return hashlib.sha256(length_prefixed(*parts)).digest()
