"""The job manifest: what every participant signs before a run, and the job id that follows from it.

    payload = manifest_bytes(manifest)              # RFC 8785: one byte string for one meaning
    job_id(payload)                                 # SHA-384, 96 hex digits
    envelope = sign(wrap(manifest), key)            # once for each participant
    manifest = verify_manifest(envelope)            # raises unless everybody signed these bytes

It names no place: model, data, code and plan stand there as digests. ``appraisal`` is carried here
and understood in ``sealtune.attest`` (``AppraisalPolicy``). ``docs/manifest.md`` explains each key.

Trust domain: every process; manifests come from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sealtune.errors import (
    MalformedManifestError,
    ManifestExpiredError,
    NotCanonicalError,
    UnsupportedTermsError,
)
from sealtune.job import dsse
from sealtune.job.dp_terms import DpTerms, check_dp
from sealtune.job.dsse import Envelope
from sealtune.job.keys import public_from_hex
from sealtune.job.method import method_of
from sealtune.job.network import NetworkIdentity
from sealtune.job.pad_operators import PadAccelerators, check_pads
from sealtune.job.plan import SlicePlan
from sealtune.job.printable import printable
from sealtune.job.sections import Name, Strict, faults
from sealtune.job.settings import Settings

PAYLOAD_TYPE = "application/vnd.sealtune.job+json"
LONGEST = timedelta(days=366)
TIME = "%Y-%m-%dT%H:%M:%SZ"

Release = Literal["participants", "quorum", "never"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Sha384 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
_TIME = r"^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z$"
Time = Annotated[str, StringConstraints(pattern=_TIME)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
MAX_ROWS = 2**29  # a float32 times a number of rows below this is exact in double precision
Rows = Annotated[int, Field(ge=0, lt=MAX_ROWS)]


class ModelIdentity(Strict):
    """The base model.

    Attributes:
        name: what its builder calls it; for people, nothing depends on it.
        digest: over its configuration, weights and tokenizer files.
        tokenizer_digest: over its tokenizer files alone.
    """

    name: str = Field(max_length=200)
    digest: Sha256
    tokenizer_digest: Sha256


class DataIdentity(Strict):
    """A site's data: digests over its examples in order, as the enclave reads them."""

    train: Sha256
    train_rows: Rows
    test: Sha256
    test_rows: Rows


def _check_key(value: str) -> str:
    try:
        public_from_hex(value)
    except MalformedManifestError as error:
        raise ValueError(error.message) from error
    return value


PublicKeyHex = Annotated[str, Field(max_length=64), AfterValidator(_check_key)]


class Participant(Strict):
    """An organisation that signs.

    Attributes:
        org: its name.
        key: its Ed25519 key, 64 hex digits.
        sites: which of the job's sites it answers for.
    """

    org: Name
    key: PublicKeyHex
    sites: tuple[Name, ...] = Field(min_length=1, max_length=64)


class Manifest(Strict):
    """What is signed.

    Attributes:
        format: version of this format.
        method: how the model is tuned.
        settings: the job's settings, without places.
        labels: class names in the order of their numbers; empty for ``causal-lm``.
        model: the base model.
        plan: which module runs where; its backbone names no path.
        plan_digest: of ``plan``.
        code: program -> digest of its code (``sealtune.attest.measure``).
        appraisal: role -> the evidence that is accepted of it (``attest.AppraisalPolicy``).
        data: each site's data.
        participants: who signs.
        network: where the hosts of a job meet; None: a job of one machine.
        pad_accelerators: each site's, where ``protection.pads`` asks for them; otherwise empty.
        min_cohort: how many organisations every aggregate comes from at least.
        dp: what each round costs of the budget of privacy; None: there is none.
        release: who gets the adapter in the end.
        epoch: rounds after which enclaves prove themselves anew.
        not_before, expires: UTC times between which a run may start.
    """

    format: Literal[5]
    method: str
    settings: Settings
    labels: tuple[Label, ...] = Field(max_length=100_000)
    model: ModelIdentity
    plan: SlicePlan
    plan_digest: Sha256
    code: dict[str, Sha384]
    appraisal: dict[str, dict[str, JsonValue]]
    data: dict[Name, DataIdentity]
    participants: tuple[Participant, ...] = Field(min_length=1, max_length=64)
    network: NetworkIdentity | None
    pad_accelerators: PadAccelerators
    min_cohort: int = Field(ge=1, le=64)
    dp: DpTerms | None
    release: Release
    epoch: int = Field(ge=1, le=10_000)
    not_before: Time
    expires: Time

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        rules = self.settings.job.rules
        if self.method != rules.name:  # which is one that there is
            raise ValueError(f"method is {self.method}, that of the job {rules.name}")
        sites = self.settings.sites.names
        _same("the sites of data", sorted(self.data), sorted(sites))
        named = sorted(site for one in self.participants for site in one.sites)
        _same("the sites of participants", named, sorted(sites))
        idle = [site for site, data in self.data.items() if not data.train_rows]
        if idle:  # rows weigh a site's updates
            raise ValueError(f"train_rows of {', '.join(idle)} is 0")
        for what in ("org", "key"):
            values = [getattr(one, what) for one in self.participants]
            if len(set(values)) < len(values):
                raise ValueError(f"two participants have the same {what}")
        check_dp(self.dp, self.settings)
        if self.settings.quorum > self.settings.asked:
            asked = f"{self.settings.asked} of {len(sites)} sites"
            raise ValueError(
                f"network.min_sites is {self.settings.quorum}, but a round asks {asked}"
            )
        least = rules.least_cohort(len(self.participants))
        if len(self.participants) < least and rules.sums_only:
            raise ValueError(
                f"participants are {len(self.participants)} organisations; it takes {least}, since "
                "of a sum of two each knows the other's part"
            )
        if not least <= self.min_cohort <= len(self.participants):
            raise ValueError(
                f"min_cohort is {self.min_cohort}; with {len(self.participants)} organisations it "
                f"is {least} to {len(self.participants)}"
            )
        if self.min_cohort > self.settings.asked:
            raise ValueError(
                f"min_cohort is {self.min_cohort}, but aggregation.participation asks "
                f"{self.settings.asked} of {len(sites)} sites in a round"
            )
        attested = rules.attested
        _same("the programs of code", sorted(self.code), sorted(self.programs.values()))
        _same("the roles of appraisal", sorted(self.appraisal), sorted(attested))
        if self.plan.backbone.path:
            raise ValueError("plan.backbone.path must be empty: a manifest names no place")
        if self.plan.digest != self.plan_digest:
            raise ValueError("plan_digest is not the digest of plan")
        check_pads(
            self.pad_accelerators,
            self.settings.protection,
            sites,
            self.participants,
            across_hosts=self.network is not None,
        )
        begin, end = self.valid
        if not timedelta() < end - begin <= LONGEST:
            raise ValueError(f"expires must be at most {LONGEST.days} days after not_before")
        return self

    @model_validator(mode="after")
    def _network_is_of_the_job(self) -> Self:
        if self.network is None:
            return self
        sites = self.settings.sites.names
        _same("the nodes of network", sorted(self.network.nodes), sorted(sites))
        begin, end = self.valid
        for one in self.network.parsed():
            if begin < one.not_valid_before_utc or end > one.not_valid_after_utc:
                raise ValueError("a certificate of network is not valid as long as the manifest")
        return self

    @property
    def valid(self) -> tuple[datetime, datetime]:
        """``not_before`` and ``expires``."""
        begin, end = (datetime.strptime(t, TIME) for t in (self.not_before, self.expires))
        return begin.replace(tzinfo=UTC), end.replace(tzinfo=UTC)

    def is_cohort(self, sites: Collection[str]) -> bool:
        """Whether ``sites`` are as many, and of as many organisations, as an aggregate needs."""
        organisations = sum(not set(one.sites).isdisjoint(sites) for one in self.participants)
        return len(sites) >= self.settings.quorum and organisations >= self.min_cohort

    def participant(self, site: str) -> Participant:
        """Who answers for ``site``."""
        return next(one for one in self.participants if site in one.sites)

    @property
    def rounds(self) -> int:
        """How many rounds of training there are, within the budget of privacy."""
        if self.dp is None:
            return self.settings.job.rounds
        return self.dp.rounds(self.settings.privacy.epsilon or 0.0)

    @property
    def programs(self) -> Mapping[str, str]:
        """Role -> its program."""
        return method_of(self.method).programs

    @property
    def keys(self) -> dict[str, Ed25519PublicKey]:
        """Organisation -> key."""
        return {one.org: public_from_hex(one.key) for one in self.participants}


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one byte string of ``manifest``.

    Raises:
        NotCanonicalError: a value that canonical JSON cannot hold.
    """
    return canonical(manifest.model_dump(mode="json"))


def job_id(payload: bytes) -> str:
    """SHA-384 of a manifest's bytes, 96 hex digits."""
    return hashlib.sha384(payload).hexdigest()


def parse_manifest(payload: bytes) -> Manifest:
    """The manifest in ``payload``.

    Raises:
        MalformedManifestError: too long, not JSON, unknown or missing keys, or contradictions.
        NotCanonicalError: its bytes are not the only ones that it can have.
    """
    if len(payload) > dsse.MAX_PAYLOAD:
        raise MalformedManifestError(f"a manifest of {len(payload)} bytes is too long")
    try:
        manifest = Manifest.model_validate_json(payload)
    except ValidationError as error:
        first = faults(error, "its top")[0]
        raise MalformedManifestError(
            f"the job manifest at {printable(first.key, 100)}: {printable(first.message)}",
            hint="`sealtune job build` writes one; versions of sealtune may differ",
        ) from error
    if manifest_bytes(manifest) != payload:
        raise NotCanonicalError(
            "the job manifest is not written in its canonical bytes (RFC 8785, every key present)",
            hint="sign and send the file that `sealtune job build` wrote, unchanged",
        )
    return manifest


def open_manifest(envelope: Envelope) -> Manifest:
    """The manifest in ``envelope``; who signed it has not been looked at.

    Raises:
        MalformedManifestError: another type of payload, or see ``parse_manifest``.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise MalformedManifestError(
            f"the envelope holds {printable(envelope.payload_type, 80)}, not {PAYLOAD_TYPE}"
        )
    return parse_manifest(envelope.payload)


def verify_manifest(envelope: Envelope, *, at: datetime | None = None) -> Manifest:
    """The manifest in ``envelope``, if every participant signed it and it is valid.

    Args:
        at: time; default: now.

    Raises:
        ManifestError: the subclass says what is wrong.
    """
    manifest = open_manifest(envelope)
    dsse.verify(envelope, manifest.keys)
    check_time(manifest, at)
    check_terms(manifest)
    return manifest


def check_time(manifest: Manifest, at: datetime | None = None) -> None:
    """Raise ManifestExpiredError unless ``at`` (default: now) is in the manifest's time."""
    now = at or datetime.now(UTC)
    begin, end = manifest.valid
    if now < begin:
        raise ManifestExpiredError(
            f"the job manifest is not valid before {manifest.not_before}",
            hint="wait, or check this machine's clock",
        )
    if now >= end:
        raise ManifestExpiredError(
            f"the job manifest expired at {manifest.expires}",
            hint="build and sign a new one, or check this machine's clock",
        )


def check_terms(manifest: Manifest) -> None:
    """Raise UnsupportedTermsError if it asks for what this version's enclaves do not keep to."""
    possible = method_of(manifest.method).releases
    if manifest.release not in possible:
        raise UnsupportedTermsError(
            f"the release rule '{manifest.release}' cannot be kept yet in a {manifest.method} job",
            hint=f"possible: {', '.join(possible)}",
        )


def canonical(content: Mapping[str, Any]) -> bytes:
    """RFC 8785.

    Raises:
        NotCanonicalError: a value that canonical JSON cannot hold.
    """
    try:
        return rfc8785.dumps(dict(content))
    except (ValueError, RecursionError) as error:  # includes CanonicalizationError, UnicodeError
        raise NotCanonicalError(
            f"the job manifest cannot be written as canonical JSON: {printable(str(error))}"
        ) from error


def _same(what: str, found: list[str], wanted: list[str]) -> None:
    if found != wanted:
        raise ValueError(
            f"{what} are {', '.join(found) or 'none'}, those of the job {', '.join(wanted)}"
        )
