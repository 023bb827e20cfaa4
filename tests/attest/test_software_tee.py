"""Genuine formats under a test root: real collector, real verifier, real handshake, and attacks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealtune.attest import AppraisalPolicy, Attester, Claims, Kind
from sealtune.attest.appraise import Appraiser
from sealtune.attest.errors import (
    BadChainError,
    KindNotAllowedError,
    UnknownMeasurementError,
    WrongReportDataError,
)
from sealtune.attest.files import claims_table
from sealtune.attest.platforms import platform
from sealtune.attest.strength import check_strength
from sealtune.channel.client import ClientHandshake
from sealtune.channel.handshake import Established
from sealtune.channel.server import ServerHandshake
from sealtune.errors import WeakEvidenceError
from tests.attest.authority import Authority
from tests.attest.software_tee import SoftwareTee

JOB = bytes(range(48))
KINDS = (Kind.SEV_SNP, Kind.TDX)


@pytest.fixture(params=KINDS, ids=str)
def tee(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SoftwareTee]:
    with SoftwareTee(tmp_path / "guest", request.param) as guest:
        yield guest


def attester(tee: SoftwareTee) -> Attester:
    return platform(tee.kind, tee.root).attester(bytes(48), collateral=tee.collateral)


def appraise(tee: SoftwareTee, policy: AppraisalPolicy, *, asked: bytes = bytes(64)) -> Claims:
    evidence = attester(tee).collect(bytes(64))
    at = datetime.now(UTC)
    return Appraiser().verify(evidence, report_data=asked, policy=policy, at=at)


def handshake(
    server: SoftwareTee, client: SoftwareTee, by_server: AppraisalPolicy, by_client: AppraisalPolicy
) -> tuple[Established, Established]:
    one = ServerHandshake(JOB, "a", attester(server), Appraiser(), by_server)
    other = ClientHandshake(JOB, "a", attester(client), Appraiser(), by_client)
    key, at_client = other.on_server_hello(one.on_hello(other.on_challenge(one.challenge())))
    return one.on_client_key(key), at_client


def test_a_guest_lacks_nothing(tee: SoftwareTee) -> None:
    assert platform(tee.kind, tee.root).missing() == []


def test_accepted_and_never_confidential(tee: SoftwareTee) -> None:
    claims = appraise(tee, tee.policy())
    assert claims.kind is tee.kind
    assert not claims.confidential
    assert claims.measurement == tee.measurement
    rows = dict(claims_table(claims, report_data_checked=True))
    assert rows["confidential"].startswith("NO: under an INSECURE TEST ROOT")
    assert list((tee.root / "sys/kernel/config/tsm/report").iterdir()) == []


def test_whole_handshakes(tee: SoftwareTee) -> None:
    at_server, at_client = handshake(tee, tee, tee.policy(), tee.policy())
    assert at_server.transcript == at_client.transcript
    message = at_server.outgoing.seal(b"from the server", 1)
    assert bytes(at_client.incoming.open(message, 1)) == b"from the server"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"insecure_test_root": None}, BadChainError),
        ({"insecure_test_root": "ab" * 32}, BadChainError),
        ({"measurements": ("bb" * 48,)}, UnknownMeasurementError),
    ],
    ids=["vendor's roots", "another test root", "another measurement"],
)
def test_refused(tee: SoftwareTee, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        appraise(tee, tee.policy(**change))
    for by_server, by_client in ((change, {}), ({}, change)):
        with pytest.raises(error):
            handshake(tee, tee, tee.policy(**by_server), tee.policy(**by_client))


def test_evidence_answers_one_challenge(tee: SoftwareTee) -> None:
    with pytest.raises(WrongReportDataError):
        appraise(tee, tee.policy(), asked=bytes(63) + b"\1")


def test_a_guest_of_another_vendor(tmp_path: Path) -> None:
    """Somebody else's test root is no better than none."""
    with (
        SoftwareTee(tmp_path / "own") as own,
        SoftwareTee(tmp_path / "other", vendor=Authority()) as other,
        pytest.raises(BadChainError),
    ):
        appraise(other, own.policy())


def test_a_test_root_opens_no_other_kind(tmp_path: Path) -> None:
    with SoftwareTee(tmp_path / "guest", Kind.TDX) as tdx:
        snp = SoftwareTee(tmp_path / "unused").policy()
        with pytest.raises(KindNotAllowedError):
            appraise(tdx, snp)


def test_a_test_root_never_stands_beside_real_ones(tee: SoftwareTee) -> None:
    trial, real = tee.policy(), SoftwareTee(tee.root, _other(tee.kind)).policy()
    genuine = {
        kind: accepted.model_copy(update={"insecure_test_root": None})
        for kind, accepted in real.kinds.items()
    }
    check_strength(trial)
    with pytest.raises(WeakEvidenceError, match="test root"):
        check_strength(AppraisalPolicy(kinds={**trial.kinds, **genuine}))


def _other(kind: Kind) -> Kind:
    return Kind.TDX if kind is Kind.SEV_SNP else Kind.SEV_SNP


def test_sealing_keys_belong_to_the_guest(tmp_path: Path) -> None:
    with SoftwareTee(tmp_path / "a") as one, SoftwareTee(tmp_path / "b") as other:
        keys = [platform(tee.kind, tee.root).sealing_key() for tee in (one, one, other)]
    assert keys[0] == keys[1] != keys[2]
