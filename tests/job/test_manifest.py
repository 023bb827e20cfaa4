"""The manifest: one byte string, strict contents, signatures of everybody, and its time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import (
    MalformedManifestError,
    ManifestError,
    ManifestExpiredError,
    NotCanonicalError,
    SealtuneError,
    SignatureMissingError,
    SignatureWrongError,
    UnsupportedTermsError,
)
from sealtune.job import dsse
from sealtune.job.dsse import Envelope
from sealtune.job.job_file import JobFile
from sealtune.job.keys import public_hex
from sealtune.job.manifest import (
    PAYLOAD_TYPE,
    check_time,
    job_id,
    manifest_bytes,
    open_manifest,
    parse_manifest,
    verify_manifest,
)
from sealtune.job.printable import printable
from sealtune.job.proposal import sign, wrap
from sealtune.job.sections import NetworkSpec, SitesSpec
from sealtune.job.settings import Settings
from sealtune.party.found import differences
from tests.job.sample import DATA, JOB, KEYS, PARTICIPANTS, PLAN, make_manifest, sign_all

BEGIN = datetime(2030, 1, 1, 12, 0, 0, tzinfo=UTC)
MANIFEST = make_manifest(not_before=BEGIN, valid=timedelta(days=2))
PAYLOAD = manifest_bytes(MANIFEST)
SIGNED = sign_all(MANIFEST)
AT = BEGIN + timedelta(hours=1)


def test_round_trip() -> None:
    assert parse_manifest(PAYLOAD) == MANIFEST
    assert verify_manifest(SIGNED, at=AT) == MANIFEST
    assert job_id(PAYLOAD) == hashlib.sha384(PAYLOAD).hexdigest()
    assert (MANIFEST.not_before, MANIFEST.expires) == (
        "2030-01-01T12:00:00Z",
        "2030-01-03T12:00:00Z",
    )


def test_it_names_no_place() -> None:
    for place in (b"/d/", b"/m", b"/b", b"main"):
        assert place not in PAYLOAD


def test_every_setting_is_in_it() -> None:
    """A key that the job file gains must not be left out of what is signed."""
    places = {"model": {"path", "revision"}, "data": {"train", "test", "labels"}}
    assert list(Settings.model_fields) == list(JobFile.model_fields)[:-1]
    assert list(JobFile.model_fields)[-1] == "equipment"
    for name in Settings.model_fields:
        here, there = (_keys(job.model_fields[name].annotation) for job in (Settings, JobFile))
        assert here == there - places.get(name, set()), name


def _keys(annotation: Any) -> set[str]:
    """Keys of a section, which may be left out."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")]
    return set(kinds[0].model_fields)


def test_places_do_not_change_the_settings() -> None:
    moved = JOB.model_copy(update={"model": JOB.model.model_copy(update={"path": "/other"})})
    assert differences(moved.settings, JOB.settings) == []
    other = JOB.model_copy(update={"train": JOB.train.model_copy(update={"batch_size": 2})})
    assert differences(other.settings, JOB.settings) == ["train.batch_size"]


def content(**changes: Any) -> dict[str, Any]:
    """The manifest as JSON; ``a__b=value`` sets ``content["a"]["b"]``."""
    found: dict[str, Any] = json.loads(PAYLOAD)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node: Any = found
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        node[last] = value
    return found


def key_of(org: str) -> str:
    return public_hex(KEYS[org].public_key())


TWICE = [one.model_dump(mode="json") for one in PARTICIPANTS]
ROW = content()["data"]["north"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": 1}, "extra"),
        ({"settings__train__extra": 1}, r"settings\.train\.extra"),
        ({"plan__modules__0__extra": 1}, r"plan\.modules\.0\.extra"),
        ({"participants__0__extra": 1}, r"participants\.0\.extra"),
        ({"format": 1}, "format"),
        ({"format": "4"}, "format"),
        ({"method": "split"}, "method"),
        ({"dp": {"epsilon": 1}}, "dp"),
        ({"release": "everybody"}, "release"),
        ({"epoch": 0}, "epoch"),
        ({"epoch": True}, "epoch"),
        ({"min_cohort": 3}, "min_cohort"),
        ({"min_cohort": 1}, "min_cohort"),
        ({"code": {"aggregator": "00", "site-enclave": "00" * 48}}, "code.aggregator"),
        ({"code": {"aggregator": "00" * 48}}, "the programs of code are aggregator, those of"),
        ({"code": {"relay": "00" * 48}}, "the programs of code are relay"),
        ({"appraisal": {"server": {}}}, "the roles of appraisal are server, those of the job"),
        ({"appraisal": {"server": {}, "site": {}, "x": {}}}, "the roles of appraisal are"),
        ({"model__digest": "AB" * 32}, r"model\.digest"),
        ({"plan_digest": "00" * 32}, "plan_digest is not"),
        ({"plan__backbone__path": "/b"}, "names no place"),
        ({"data": {"north": ROW}}, "the sites of data are north"),
        ({"data": {"north": ROW, "south": ROW, "east": ROW}}, "the sites of data"),
        ({"data__north__train_rows": 0}, "train_rows"),
        ({"data__north__train_rows": 2**29}, "train_rows"),
        ({"data__north__test_rows": 2**29}, "test_rows"),
        ({"data__north__train_rows": 1.5}, "train_rows"),
        ({"participants": []}, "participants"),
        ({"participants": TWICE[:1]}, "the sites of participants"),
        ({"participants__1__org": "clinic"}, "same org"),
        ({"participants__1__key": key_of("clinic")}, "same key"),
        ({"participants__1__key": "01" + "00" * 31}, "no honest key"),
        ({"participants__1__sites": ["north"]}, "the sites of participants"),
        ({"participants__1__sites": ["north", "south"]}, "the sites of participants"),
        ({"settings__network__min_sites": 3}, "min_sites"),
        ({"not_before": "2030-13-01T12:00:00Z"}, "job manifest"),
        ({"not_before": "2030-01-01 12:00:00"}, "not_before"),
        ({"expires": "2030-01-01T12:00:00Z"}, "expires"),
        ({"expires": "2033-01-01T12:00:00Z"}, "expires"),
        ({"not_before": "9999-12-31T00:00:00Z", "expires": "9999-12-31T23:59:59Z"}, None),
    ],
)
def test_contents(changes: dict[str, Any], words: str | None) -> None:
    data = rfc8785.dumps(content(**changes))
    if words is None:
        parse_manifest(data)
        return
    with pytest.raises(MalformedManifestError, match=words) as caught:
        parse_manifest(data)
    assert not isinstance(caught.value, NotCanonicalError)
    assert "Value error" not in str(caught.value)


def without(key: str) -> dict[str, Any]:
    found = content()
    del found[key]
    return found


@pytest.mark.parametrize("key", sorted(content()))
def test_no_key_may_be_left_out(key: str) -> None:
    with pytest.raises(MalformedManifestError):
        parse_manifest(rfc8785.dumps(without(key)))


@pytest.mark.parametrize(
    "write",
    [
        lambda: json.dumps(content()).encode(),
        lambda: PAYLOAD + b"\n",
        lambda: b" " + PAYLOAD,
        lambda: PAYLOAD.replace(b'"epoch":5', b'"epoch":5,"epoch":5'),
        lambda: PAYLOAD.replace(b'"epoch":5', b'"epoch":7,"epoch":5'),
        lambda: PAYLOAD.replace("ß".encode(), b"\\u00df"),
        lambda: PAYLOAD.replace(b'"learning_rate":1e-7', b'"learning_rate":0.0000001'),
        lambda: PAYLOAD.replace(b'"rounds":3,', b""),  # a default is not what was signed
    ],
)
def test_other_bytes_of_the_same_meaning(write: Callable[[], bytes]) -> None:
    assert write() != PAYLOAD
    with pytest.raises(NotCanonicalError):
        parse_manifest(write())


@pytest.mark.parametrize(
    "data", [b"", b"null", b"{}", b"[" * 100_000, b"\xff", b" " * (dsse.MAX_PAYLOAD + 1)]
)
def test_other_bytes(data: bytes) -> None:
    with pytest.raises(MalformedManifestError):
        parse_manifest(data)


@pytest.mark.parametrize("value", [2**60, 1e400, {"a": {"b": 2**70}}, "\ud800"])
def test_values_that_canonical_json_cannot_hold(value: Any) -> None:
    data = json.dumps(content(appraisal={"x": value})).encode()
    with pytest.raises(MalformedManifestError):
        parse_manifest(data)
    with pytest.raises(MalformedManifestError):
        make_manifest(appraisal={"x": value})


def test_an_envelope_of_something_else() -> None:
    other = replace(wrap(MANIFEST), payload_type="application/json")
    for key in KEYS.values():
        other = sign(other, key)
    with pytest.raises(MalformedManifestError, match="holds application/json"):
        verify_manifest(other, at=AT)


@pytest.mark.parametrize("missing", range(2))
def test_a_participant_has_not_signed(missing: int) -> None:
    rest = tuple(one for i, one in enumerate(SIGNED.signatures) if i != missing)
    org = PARTICIPANTS[missing].org
    with pytest.raises(SignatureMissingError, match=org):
        verify_manifest(replace(SIGNED, signatures=rest), at=AT)


def test_signatures_of_another_manifest() -> None:
    other = sign_all(make_manifest(not_before=BEGIN, valid=timedelta(days=3)))
    with pytest.raises(SignatureWrongError):
        verify_manifest(replace(SIGNED, signatures=other.signatures), at=AT)


@settings(deadline=None, max_examples=600)
@given(st.integers(0, len(PAYLOAD) - 1), st.integers(1, 255))
def test_any_byte_of_the_payload(position: int, difference: int) -> None:
    payload = bytearray(PAYLOAD)
    payload[position] ^= difference
    with pytest.raises(ManifestError):
        verify_manifest(replace(SIGNED, payload=bytes(payload)), at=AT)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 1), st.integers(0, 63), st.integers(1, 255))
def test_any_byte_of_a_signature(which: int, position: int, difference: int) -> None:
    signatures = list(SIGNED.signatures)
    changed = bytearray(signatures[which].sig)
    changed[position] ^= difference
    signatures[which] = replace(signatures[which], sig=bytes(changed))
    with pytest.raises(SignatureWrongError):
        verify_manifest(replace(SIGNED, signatures=tuple(signatures)), at=AT)


def test_time() -> None:
    begin, end = MANIFEST.valid
    for at in (begin, end - timedelta(seconds=1)):
        check_time(MANIFEST, at)
    for at in (begin - timedelta(seconds=1), end, end + timedelta(days=900)):
        with pytest.raises(ManifestExpiredError):
            check_time(MANIFEST, at)
        with pytest.raises(ManifestExpiredError):
            verify_manifest(SIGNED, at=at)
    verify_manifest(sign_all(make_manifest()))  # now


@pytest.mark.parametrize("release", ["quorum", "never"])
def test_rules_that_no_enclave_keeps_yet(release: Any) -> None:
    with pytest.raises(UnsupportedTermsError, match=release):
        make_manifest(release=release)
    envelope = wrap(parse_manifest(rfc8785.dumps(content(release=release))))
    for key in KEYS.values():
        envelope = sign(envelope, key)
    with pytest.raises(UnsupportedTermsError):
        verify_manifest(envelope, at=AT)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def put(path: list[int], value: Any) -> bytes:
    """The manifest as JSON with one value, found by walking ``path``, replaced."""
    found: Any = {"": content()}
    node, key = found, ""
    for step in path:
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        node, key = inner, keys[step % len(keys)]
    node[key] = value
    try:
        return rfc8785.dumps(found[""])
    except ValueError:
        return json.dumps(found[""]).encode()


@settings(deadline=None, max_examples=2000)
@given(
    st.one_of(
        st.binary(max_size=100),
        VALUES.map(lambda value: json.dumps(value).encode()),
        st.builds(put, st.lists(st.integers(0, 30), max_size=6), VALUES),
        st.builds(
            lambda begin, end: PAYLOAD[:begin] + PAYLOAD[end:],
            st.integers(0, len(PAYLOAD)),
            st.integers(0, len(PAYLOAD)),
        ),
    )
)
def test_any_payload_raises_our_errors_only(data: bytes) -> None:
    try:
        manifest = open_manifest(Envelope(PAYLOAD_TYPE, data))
    except SealtuneError:
        return
    assert manifest_bytes(manifest) == data


def test_plan_digest_ignores_the_place() -> None:
    assert MANIFEST.plan_digest == PLAN.digest == MANIFEST.plan.digest


def test_printable() -> None:
    assert printable("é ß x") == "é ß x"
    assert printable("a\x1b[31m\n\u202eb\ud800") == r"a\x1b[31m\n\u202eb\ud800"
    assert printable("x" * 300, 5) == "xxxxx… (300 characters)"


@pytest.mark.parametrize(
    ("present", "quorum", "enough"),
    [
        (("north", "south", "west"), 3, True),
        (("north", "south"), 3, False),
        (("north", "west"), 2, True),
        (("south", "west"), 2, True),
        (("north", "south"), 2, False),  # both of one organisation
        (("west",), 1, False),
        ((), 1, False),
    ],
)
def test_a_cohort_is_of_several_organisations(
    present: tuple[str, ...], quorum: int, enough: bool
) -> None:
    job = JOB.model_copy(
        update={
            "sites": SitesSpec(names=("north", "south", "west"), partition="dirichlet"),
            "network": NetworkSpec(min_sites=quorum),
        }
    )
    clinic, lab = PARTICIPANTS
    found = make_manifest(
        settings=job.settings,
        data=dict.fromkeys(job.sites.names, DATA),
        participants=(
            clinic.model_copy(update={"sites": ("north", "south")}),
            lab.model_copy(update={"sites": ("west",)}),
        ),
    )
    assert found.min_cohort == 2
    assert found.is_cohort(present) is enough


def test_one_organisation_alone_is_its_own_cohort() -> None:
    everything = PARTICIPANTS[0].model_copy(update={"sites": ("north", "south")})
    found = make_manifest(participants=(everything,))
    assert found.min_cohort == 1
    assert found.is_cohort(("north", "south"))
