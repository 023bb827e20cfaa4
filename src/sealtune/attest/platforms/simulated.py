"""Simulated evidence: the whole protocol on machines without a TEE, and no confidentiality.

All simulated enclaves of one user on one machine sign with **one development key**, an Ed25519 key
in a file of mode 0600 (`default_key_path`, or any path that is passed). Whoever can read that file
can pretend to be any enclave. So the evidence has a kind of its own, its claims say
``confidential = false``, and a policy that does not name ``simulated`` refuses it.

Format, little-endian, exactly 220 bytes:

    magic "SIM1" | flags u32 (1 = debug) | svn u32 | measurement 48 | report data 64 | key 32 |
    signature 64 over everything before it

Trust domain: every enclave.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealtune.attest.errors import (
    AttesterUnavailableError,
    BadSignatureError,
    MalformedEvidenceError,
    TrailingBytesError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.evidence import REPORT_DATA_SIZE, Claims, Evidence, Kind
from sealtune.attest.measure import program_digest
from sealtune.attest.platforms.base import Platform
from sealtune.attest.policy import AppraisalPolicy, KindPolicy
from sealtune.job.cache import home

BODY = struct.Struct("<4sII48s64s32s")
MAGIC = b"SIM1"
SIZE = BODY.size + 64
DEBUG = 1
CONTEXT = b"sealtune simulated evidence v1\0"
MEASURED = ("aggregator", "owner-site", "owner-trainer", "site-enclave", "split-server")


@cache
def own_measurement() -> bytes:
    """One digest of the programs that enclaves and data owners run, read once per process."""
    return hashlib.sha384(b"".join(map(program_digest, MEASURED))).digest()


def default_key_path() -> Path:
    """Where the development key lives: ``$XDG_DATA_HOME/sealtune/simulated-tee.key``."""
    base = os.environ.get("XDG_DATA_HOME") or str(home() / ".local" / "share")
    return Path(base) / "sealtune" / "simulated-tee.key"


def load_key(path: Path | None = None) -> Ed25519PrivateKey:
    """The development key; made on first use. Safe when several processes start at once.

    Raises:
        AttesterUnavailableError: the file cannot be made, is readable by others, or is no key.
    """
    where = path or default_key_path()
    try:
        if not where.exists():
            _create_key(where)
        mode = stat.S_IMODE(where.stat().st_mode)
        raw = where.read_bytes()
    except OSError as error:
        raise AttesterUnavailableError(
            f"development key {where}: {error.strerror or error}",
            hint="simulated enclaves need a folder that they may write to",
        ) from error
    if mode & 0o077:
        raise AttesterUnavailableError(
            f"development key {where} can be read by others (mode {mode:04o})",
            hint=f"delete it, or: chmod 600 {where}",
        )
    if len(raw) != 32:
        raise AttesterUnavailableError(
            f"development key {where} has {len(raw)} bytes, not 32", hint="delete it"
        )
    return Ed25519PrivateKey.from_private_bytes(raw)


def _create_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        # link, unlike rename, fails where another process was faster: then its key counts.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


class Simulated(Platform):
    """No TEE at all."""

    kind = Kind.SIMULATED

    def collect(self, challenge: bytes) -> tuple[bytes, bytes]:
        """See `Platform`: of the code installed here."""
        return SimulatedAttester().collect(challenge).data, b""

    def attester(
        self, program: bytes, *, collateral: bytes = b"", gpu: Platform | None = None
    ) -> SimulatedAttester:
        """See `Platform`."""
        return SimulatedAttester(measurement=program)

    def verifier(self, collateral: Sequence[bytes] = ()) -> SimulatedVerifier:
        """See `Platform`."""
        return SimulatedVerifier(tuple(collateral) or None)

    def sealing_key(self) -> bytes:
        """See `Platform`: stands in for a TEE's, derived from the development key.

        Whoever can read that file, which lies outside every run folder, can open what is sealed.
        """
        return self.derive(load_key().private_bytes_raw())


class SimulatedAttester:
    """Signs report data with the development key.

    Args:
        key: the development key; default: `load_key()`.
        measurement: 48 bytes; default: digest of the installed source.
        svn: security version to state.
        debug: whether to pretend to be a debug enclave (for tests).
    """

    kind = Kind.SIMULATED

    def __init__(
        self,
        key: Ed25519PrivateKey | None = None,
        *,
        measurement: bytes | None = None,
        svn: int = 0,
        debug: bool = False,
    ) -> None:
        self._key = key or load_key()
        self._measurement = own_measurement() if measurement is None else measurement
        if len(self._measurement) != 48:
            raise AttesterUnavailableError("a simulated measurement has 48 bytes")
        self._svn = svn
        self._debug = debug

    def collect(self, report_data: bytes) -> Evidence:
        """Evidence over 64 bytes of report data."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterUnavailableError(f"report data of {len(report_data)} bytes, not 64")
        body = BODY.pack(
            MAGIC,
            DEBUG if self._debug else 0,
            self._svn,
            self._measurement,
            report_data,
            self._key.public_key().public_bytes_raw(),
        )
        return Evidence(Kind.SIMULATED, body + self._key.sign(CONTEXT + body))

    def collect_gpu(self, nonce: bytes) -> bytes:
        """No GPU takes part in a simulation."""
        return b""


class SimulatedVerifier:
    """Accepts the development key's signature, if the policy names ``simulated``.

    Args:
        keys: raw public keys (32 bytes each) that count as development keys; default: those that
            the policy lists as signers, each machine's own; without a list the one of `load_key()`,
            so that both sides must be on this machine and user.
    """

    def __init__(self, keys: tuple[bytes, ...] | None = None) -> None:
        self._keys = keys

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See `sealtune.attest.evidence.Verifier`."""
        kind_policy = policy.for_kind(Kind.SIMULATED)
        if evidence.kind is not Kind.SIMULATED:
            raise MalformedEvidenceError(f"{evidence.kind} evidence given to the simulation")
        if evidence.endorsements or evidence.gpu:
            raise TrailingBytesError("simulated evidence has no endorsements and no GPU")
        claims = self._parse(evidence.data, at, self._known(kind_policy))
        if claims.report_data != report_data.hex():
            raise WrongReportDataError(
                "simulated evidence was made for another nonce, job, role or key"
            )
        kind_policy.check(claims)
        return claims

    def _known(self, policy: KindPolicy) -> tuple[bytes, ...]:
        if self._keys is not None:
            return self._keys
        if policy.signers == "any":
            return (own_signer(),)
        return tuple(map(bytes.fromhex, policy.signers))

    def _parse(self, data: bytes, at: datetime, known: tuple[bytes, ...]) -> Claims:
        if len(data) > SIZE:
            raise TrailingBytesError(f"{len(data) - SIZE} bytes follow the simulated evidence")
        if len(data) < SIZE:
            raise MalformedEvidenceError(f"simulated evidence of {len(data)} bytes, not {SIZE}")
        body, signature = data[: BODY.size], data[BODY.size :]
        magic, flags, svn, measurement, bound, key = BODY.unpack(body)
        if magic != MAGIC or flags & ~DEBUG:
            raise MalformedEvidenceError("not simulated evidence: wrong magic or flags")
        if key not in known:
            raise UnknownSignerError(
                f"simulated evidence is signed by key {key.hex()}, which is not the development "
                "key known here",
                hint="simulated enclaves must share one development key file, or the job name "
                "each one's key, as jobs built from cards do",
            )
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, CONTEXT + body)
        except InvalidSignature as error:
            raise BadSignatureError("signature of the simulated evidence is wrong") from error
        return Claims(
            kind=Kind.SIMULATED,
            confidential=False,
            measurement=measurement.hex(),
            signer=key.hex(),
            svn=svn,
            tcb_status="Simulated",
            debug=bool(flags & DEBUG),
            report_data=bound.hex(),
            verified_at=at,
        )


def own_signer() -> bytes:
    """The development key of this user on this machine, public, 32 bytes.

    Raises:
        AttesterUnavailableError: see ``load_key``.
    """
    return load_key().public_key().public_bytes_raw()


def simulated_policy(
    measurement: bytes | None = None, signers: tuple[bytes, ...] | None = None
) -> AppraisalPolicy:
    """A policy that accepts simulated evidence of one code digest, and nothing else.

    Args:
        measurement: 48 bytes; default: the code installed here, so a peer must run the same.
        signers: development keys; default: that of whoever verifies.
    """
    digest = own_measurement() if measurement is None else measurement
    accepted = KindPolicy(
        measurements=(digest.hex(),),
        signers="any" if signers is None else tuple(key.hex() for key in signers),
        tcb_statuses=("Simulated",),
    )
    return AppraisalPolicy(kinds={Kind.SIMULATED: accepted})
