"""A card: one byte string, one signature, and every number at its bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.errors import (
    CardError,
    ManifestError,
    NotCanonicalError,
    SignatureMissingError,
    SignatureWrongError,
    UnknownKeyError,
)
from sealtune.job import card as cards
from sealtune.job.card import (
    PAYLOAD_TYPE,
    Machine,
    Signer,
    SiteCard,
    open_card,
    seal_card,
    settings_digest,
    time_fault,
)
from sealtune.job.dsse import Envelope
from sealtune.job.manifest import PAYLOAD_TYPE as MANIFEST_TYPE
from sealtune.job.proposal import sign
from tests.job.sample import DATA, JOB, KEYS, LABELS, NETWORK

KEY = KEYS["clinic"]
SIGNER = Signer("clinic", KEY, 30)
CARD = SiteCard(
    role="site",
    site="north",
    model=cards.CardModel(digest="ab" * 32, tokenizer_digest="cd" * 32),
    data=DATA,
    labels=LABELS,
    labels_only_in_test=(),
    cut_train=1,
    cut_test=0,
    node_key=NETWORK.nodes["north"],
    accelerator_operator=None,
    code={"site-enclave": "ee" * 48},
    evidence=None,
    machine=Machine(memory_mib=1, cores=1, note=""),
    **SIGNER.head(JOB.settings, None),
)
SEALED = seal_card(CARD, KEY)


def changed(**changes: Any) -> Envelope:
    """Other contents, well signed."""
    content = json.loads(SEALED.payload) | changes
    return sign(Envelope(PAYLOAD_TYPE, rfc8785.dumps(content)), KEY)


def test_a_card_comes_back() -> None:
    assert open_card(SEALED) == CARD
    assert (CARD.valid[1] - CARD.valid[0]).days == 30
    assert open_card(Envelope.decode(SEALED.encode())) == CARD


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("format", [2], [0, 1, 3, "2", None]),
        ("role", [], ["server", "coordinator", "owner", None]),
        ("org", ["a" * 40], ["", "A", "a" * 41, "a\n"]),
        ("settings", ["00" * 32], ["00" * 31, "AB" * 32]),
        ("cut_train", [0, 2**29 - 1], [-1, 2**29, 0.5, "1"]),
        ("labels", [[], ["x" * 10_000]], [[""], ["x" * 10_001], "x"]),
        ("machine", [{"memory_mib": 2**31 - 1, "cores": 2**16, "note": "x" * 500}],
         [{"memory_mib": 0, "cores": 1, "note": ""}, {"memory_mib": 2**31, "cores": 1, "note": ""},
          {"memory_mib": 1, "cores": 0, "note": ""}, {"memory_mib": 1, "cores": 2**16 + 1,
          "note": ""}, {"memory_mib": 1, "cores": 1, "note": "x" * 501}, {}]),
        ("code", [{}], [{"a": "00"}, dict.fromkeys("abcde", "00" * 48)]),
        ("evidence", [{"kind": "tdx", "policy": None}], [{"kind": "unattested", "policy": None},
         {"kind": "tdx"}, {}]),
        ("node_key", [], ["", "ssh-ed25519 AAAA", NETWORK.nodes["north"] + " x"]),
        ("made", [], ["2030-01-01", "2990-01-01T00:00:00Z", "2020-01-01T00:00:00Z"]),
        ("key", [], ["00" * 32, "ab" * 31]),
        ("path", [], ["/data"]),
    ],
)  # fmt: skip
def test_each_value_at_its_bounds(key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert open_card(changed(**{key: value}))
    for value in bad:
        with pytest.raises(CardError):
            open_card(changed(**{key: value}))


@pytest.mark.parametrize("key", sorted(json.loads(SEALED.payload)))
def test_no_key_may_be_left_out(key: str) -> None:
    content = json.loads(SEALED.payload)
    del content[key]
    with pytest.raises(CardError):
        open_card(sign(Envelope(PAYLOAD_TYPE, rfc8785.dumps(content)), KEY))


def test_a_card_of_one_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cards.MAX_CARD == 1024 * 1024
    monkeypatch.setattr(cards, "MAX_CARD", len(SEALED.payload))
    assert open_card(SEALED)
    monkeypatch.setattr(cards, "MAX_CARD", len(SEALED.payload) - 1)
    for use in (lambda: open_card(SEALED), lambda: seal_card(CARD, KEY)):
        with pytest.raises(CardError, match="at most"):
            use()


def test_signatures() -> None:
    stranger = Ed25519PrivateKey.generate()
    (one,) = SEALED.signatures
    for envelope, kind in (
        (replace(SEALED, signatures=()), SignatureMissingError),
        (replace(SEALED, signatures=(one, one)), SignatureWrongError),
        (replace(SEALED, signatures=(replace(one, sig=bytes(64)),)), SignatureWrongError),
        (replace(changed(site="south"), signatures=(one,)), SignatureWrongError),
        (sign(SEALED, stranger), UnknownKeyError),
        (sign(replace(SEALED, signatures=()), stranger), UnknownKeyError),
        # what was signed as another kind of thing is no card
        (replace(sign(replace(SEALED, payload_type=MANIFEST_TYPE, signatures=()), KEY),
                 payload_type=PAYLOAD_TYPE), SignatureWrongError),
        (replace(SEALED, payload_type=MANIFEST_TYPE), CardError),
    ):  # fmt: skip
        with pytest.raises(kind):
            open_card(envelope)
    with pytest.raises(UnknownKeyError, match="another key"):
        seal_card(CARD, stranger)


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, json.dumps(1).encode()]
)
def test_what_is_no_card(data: bytes) -> None:
    with pytest.raises(CardError):
        open_card(sign(Envelope(PAYLOAD_TYPE, data), KEY))


def test_other_bytes_of_the_same_meaning() -> None:
    spaced = json.dumps(json.loads(SEALED.payload)).encode()
    with pytest.raises(NotCanonicalError):
        open_card(sign(Envelope(PAYLOAD_TYPE, spaced), KEY))


def test_a_flipped_bit_anywhere() -> None:
    data = SEALED.encode()
    for place in range(0, len(data), 97):
        spoilt = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ManifestError):
            open_card(Envelope.decode(spoilt))


def test_time() -> None:
    begin, end = CARD.valid
    assert begin.tzinfo is UTC
    second, skew = timedelta(seconds=1), timedelta(minutes=10)
    for good in (begin - skew, begin, end - second):
        assert time_fault(CARD, good) == ""
    assert "one of two clocks" in time_fault(CARD, begin - skew - second)
    assert "expired at" in time_fault(CARD, end)
    assert time_fault(CARD) == ""
    assert time_fault(CARD, datetime(2020, 1, 1, tzinfo=UTC))


def test_what_a_card_is_made_for() -> None:
    """Everything that the job file says, but who else takes part and how they are waited for."""
    settings = JOB.settings
    same = settings_digest(settings, None)

    def with_(section: str, **keys: Any) -> str:
        part = getattr(settings, section).model_copy(update=keys)
        return settings_digest(settings.model_copy(update={section: part}), None)

    assert with_("sites", names=("north", "south", "west")) == same
    assert with_("network", min_sites=1) == same
    assert with_("train", learning_rate=0.5) != same
    assert with_("data", template="{other}") != same
    assert with_("job", name="other") != same
    assert settings_digest(settings, ("a", "b")) != same
    assert settings_digest(settings, ("b", "a")) != settings_digest(settings, ("a", "b"))
    rows = settings.data.model_copy(update={"max_test_rows": 5})
    limited = settings.model_copy(update={"data": rows})
    sites = settings.sites.model_copy(update={"names": ("south", "north")})
    moved = limited.model_copy(update={"sites": sites})
    assert settings_digest(limited, None) != settings_digest(moved, None)
