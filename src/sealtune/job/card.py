"""Cards: what each party of a job says of itself, signed, before there is a manifest.

    envelope = seal_card(card, key)           # on the party's own machine
    card = open_card(Envelope.read(path))     # raises unless its own key signed these bytes

A card is an offer, and binds nobody: what counts is the manifest, which every organisation holds
against its own data, keys and card before it signs. A card tells its readers what the manifest
tells all participants anyway, and no path, text or private key.

Trust domain: a participant's own machine; cards come from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, JsonValue, TypeAdapter, ValidationError, model_validator

from sealtune.errors import CardError, NotCanonicalError, Problem, UnknownKeyError
from sealtune.job import dsse
from sealtune.job.dsse import Envelope
from sealtune.job.keys import public_from_hex, public_hex
from sealtune.job.manifest import (
    LONGEST,
    TIME,
    DataIdentity,
    Label,
    PublicKeyHex,
    Rows,
    Sha256,
    Sha384,
    Time,
    canonical,
)
from sealtune.job.network import Address, CertificatePem, NodeKey, check_hosts
from sealtune.job.pad_operators import HpkeKeyHex
from sealtune.job.printable import printable
from sealtune.job.proposal import sign
from sealtune.job.sections import EvidenceKind, Name, Strict, faults
from sealtune.job.settings import Settings

PAYLOAD_TYPE = "application/vnd.sealtune.card+json"
MAX_CARD = 1 << 20  # bytes; without long lists of labels a card has some 2 KiB
SKEW = timedelta(minutes=10)  # by which clocks of two machines may differ


class CardModel(Strict):
    """The base model that lies at the party: digests as in a manifest, without a name."""

    digest: Sha256
    tokenizer_digest: Sha256


class CardEvidence(Strict):
    """What the party's enclave shows.

    Attributes:
        kind: of evidence.
        policy: what the party proposes to accept of its role (``attest.AppraisalPolicy``).
    """

    kind: EvidenceKind
    policy: dict[str, JsonValue] | None


class Machine(Strict):
    """What the party gives to the job; for people."""

    memory_mib: int = Field(ge=1, lt=2**31)
    cores: int = Field(ge=1, le=2**16)
    note: str = Field(max_length=500)


class _Card(Strict):
    """What all cards say.

    Attributes:
        format: version of this format.
        org: the organisation's name.
        key: its Ed25519 key, which signs the card, 64 hex digits.
        settings: ``settings_digest`` of the job that the card was made for.
        made, expires: UTC times between which it may be used.
    """

    format: Literal[2]
    org: Name
    key: PublicKeyHex
    settings: Sha256
    made: Time
    expires: Time

    @model_validator(mode="after")
    def _is_of_a_time(self) -> Self:
        begin, end = self.valid
        if not timedelta() < end - begin <= LONGEST:
            raise ValueError(f"expires must be at most {LONGEST.days} days after made")
        return self

    @property
    def valid(self) -> tuple[datetime, datetime]:
        """``made`` and ``expires``."""
        begin, end = (datetime.strptime(t, TIME) for t in (self.made, self.expires))
        return begin.replace(tzinfo=UTC), end.replace(tzinfo=UTC)


class _ProgramCard(_Card):
    """Of a party whose program's code is signed.

    Attributes:
        code: program -> digest of its code there.
        evidence: what its enclave shows; None: it has none.
        machine: what it runs on.
    """

    code: dict[str, Sha384] = Field(max_length=4)
    evidence: CardEvidence | None
    machine: Machine


class SiteCard(_ProgramCard):
    """A site, described on its own machine.

    Attributes:
        model: what lies there.
        data: digests and numbers of its examples.
        labels: classes in its training rows; empty where the job file names all, or has none.
        labels_only_in_test: classes of its test rows that none of its training rows has.
        cut_train, cut_test: how many texts are longer than ``data.max_tokens``.
        node_key: public key of its node.
        accelerator_operator: who runs its accelerator, where that must be another than runs the pad
            accelerator; otherwise None.
    """

    role: Literal["site"]
    site: Name
    model: CardModel
    data: DataIdentity
    labels: tuple[Label, ...] = Field(max_length=100_000)
    labels_only_in_test: tuple[Label, ...] = Field(max_length=100_000)
    cut_train: Rows
    cut_test: Rows
    node_key: NodeKey
    accelerator_operator: Name | None


class ServerCard(_ProgramCard):
    """The server; ``server_certificate`` is what its link shows the coordinator."""

    role: Literal["server"]
    server_certificate: CertificatePem


class CoordinatorCard(_Card):
    """The coordinator: where it is reached, and the certificate that it shows there."""

    role: Literal["coordinator"]
    sites_at: Address
    server_at: Address
    certificate: CertificatePem

    @model_validator(mode="after")
    def _is_for_its_hosts(self) -> Self:
        if self.sites_at == self.server_at:
            raise ValueError("sites_at and server_at are the same address")
        check_hosts(self.certificate, self.sites_at, self.server_at)
        return self


class PadAcceleratorCard(_Card):
    """A pad accelerator; the organisation is its operator.

    Attributes:
        sites: whom it is to serve.
        pad_key: public HPKE key, to which their enclaves seal their seeds.
    """

    role: Literal["pad-accelerator"]
    sites: tuple[Name, ...] = Field(min_length=1, max_length=64)
    pad_key: HpkeKeyHex


Card = SiteCard | ServerCard | CoordinatorCard | PadAcceleratorCard
_FORM: TypeAdapter[Card] = TypeAdapter(Annotated[Card, Field(discriminator="role")])


def settings_digest(settings: Settings, labels: Sequence[str] | None) -> str:
    """SHA-256 over the settings that cards are made for: all but ``[sites]`` and ``[network]``.

    So a site that joins leaves the others' cards as they are; unless rows are limited, since each
    site's share of them follows from the list of sites.

    Args:
        labels: of the job file; None where it names none.
    """
    content: dict[str, Any] = settings.model_dump(mode="json", exclude={"sites", "network"})
    content["labels"] = None if labels is None else list(labels)
    if settings.data.max_train_rows is not None or settings.data.max_test_rows is not None:
        content["sites"] = list(settings.sites.names)
    return hashlib.sha256(b"sealtune card settings 1\n" + canonical(content)).hexdigest()


def _times(days: int) -> dict[str, str]:
    begin = datetime.now(UTC).replace(microsecond=0)
    return {"made": begin.strftime(TIME), "expires": (begin + timedelta(days)).strftime(TIME)}


@dataclass(frozen=True)
class Signer:
    """Who signs a card.

    Attributes:
        org: the organisation's name.
        key: its key.
        days: how long the card may be used.
    """

    org: str
    key: Ed25519PrivateKey
    days: int

    def head(self, settings: Settings, labels: Sequence[str] | None) -> dict[str, Any]:
        """What every card begins with; arguments as of ``settings_digest``."""
        return {
            "format": 2,
            "org": self.org,
            "key": public_hex(self.key.public_key()),
            "settings": settings_digest(settings, labels),
            **_times(self.days),
        }


def seal_card(card: Card, key: Ed25519PrivateKey) -> Envelope:
    """The card, signed.

    Raises:
        UnknownKeyError: it states another key.
        CardError: it is longer than anybody reads.
    """
    if card.key != public_hex(key.public_key()):
        raise UnknownKeyError("the card states another key than the one that is to sign it")
    payload = canonical(card.model_dump(mode="json"))
    _check_size(payload)
    return sign(Envelope(PAYLOAD_TYPE, payload), key)


def open_card(envelope: Envelope) -> Card:
    """The card in ``envelope``, which the key that it states has signed, and no other.

    Whether that is the key of the organisation that it names, only its owner can tell.

    Raises:
        CardError: another type of payload, too long, unknown or missing keys, or contradictions.
        NotCanonicalError: its bytes are not the only ones that it can have.
        SignatureMissingError, SignatureWrongError, UnknownKeyError: see ``dsse.verify``.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise CardError([Problem("payloadType", f"is {printable(envelope.payload_type, 80)}")])
    _check_size(envelope.payload)
    try:
        card = _FORM.validate_json(envelope.payload)
    except ValidationError as error:
        found = faults(error, "card")
        raise CardError(
            [Problem(printable(one.key, 100), printable(one.message)) for one in found],
            hint="versions of sealtune may differ",
        ) from error
    if canonical(card.model_dump(mode="json")) != envelope.payload:
        raise NotCanonicalError("the card is not written in its canonical bytes (RFC 8785)")
    dsse.verify(envelope, {card.org: public_from_hex(card.key)})
    return card


def read_card(path: Path) -> Card:
    """The card in a file; raises as ``open_card`` and ``Envelope.read``."""
    return open_card(Envelope.read(path, "card"))


def time_fault(card: Card, at: datetime | None = None) -> str:
    """Why ``card`` cannot be used ``at`` (default: now); empty: it can."""
    now = at or datetime.now(UTC)
    begin, end = card.valid
    if now < begin - SKEW:
        return f"was made at {card.made}, which is to come: one of two clocks is wrong"
    return f"expired at {card.expires}: its party makes a new one" if now >= end else ""


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_CARD:
        words = f"has {len(payload)} bytes, at most {MAX_CARD} are allowed"
        raise CardError([Problem("card", words)], hint="name all classes in data.labels")
