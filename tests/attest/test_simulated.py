"""The simulated TEE: same interface, no confidentiality, and it says so."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest import AppraisalPolicy, Evidence, Kind, KindPolicy
from sealtune.attest.errors import (
    AttesterUnavailableError,
    DebugEnclaveError,
    KindNotAllowedError,
    MalformedEvidenceError,
    SvnTooLowError,
    TrailingBytesError,
    UnknownMeasurementError,
    UnknownSignerError,
    WrongReportDataError,
)
from sealtune.attest.platforms.simulated import (
    CONTEXT,
    SIZE,
    SimulatedAttester,
    SimulatedVerifier,
    default_key_path,
    load_key,
    own_measurement,
    simulated_policy,
)
from sealtune.errors import AttestationError

KEY = Ed25519PrivateKey.generate()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DATA = bytes(range(64))


def evidence(**kwargs: object) -> Evidence:
    return SimulatedAttester(KEY, **kwargs).collect(DATA)  # type: ignore[arg-type]


def verify(
    given: Evidence, policy: AppraisalPolicy | None = None, report_data: bytes = DATA
) -> object:
    verifier = SimulatedVerifier((KEY.public_key().public_bytes_raw(),))
    return verifier.verify(
        given, report_data=report_data, policy=policy or simulated_policy(), at=NOW
    )


def test_accepted_and_marked() -> None:
    claims = verify(evidence())
    assert claims.confidential is False
    assert claims.measurement == own_measurement().hex()
    assert claims.verified_at == NOW
    assert '"confidential":false' in claims.model_dump_json()


def test_refused_where_the_policy_does_not_name_it() -> None:
    policy = AppraisalPolicy(kinds={Kind.TDX: KindPolicy(measurements="any")})
    with pytest.raises(KindNotAllowedError, match="accepted: tdx"):
        verify(evidence(), policy)
    # Even a policy that names it must accept the status "Simulated" in so many letters.
    loose = AppraisalPolicy(kinds={Kind.SIMULATED: KindPolicy(measurements="any")})
    with pytest.raises(AttestationError, match="Simulated"):
        verify(evidence(), loose)


def test_refused() -> None:
    with pytest.raises(WrongReportDataError):
        verify(evidence(), report_data=bytes(64))
    with pytest.raises(UnknownMeasurementError):
        verify(evidence(measurement=bytes(48)))
    with pytest.raises(DebugEnclaveError):
        verify(evidence(debug=True))
    with pytest.raises(UnknownSignerError):
        verify(SimulatedAttester(Ed25519PrivateKey.generate()).collect(DATA))
    with pytest.raises(TrailingBytesError):
        verify(replace(evidence(), data=evidence().data + b"\0"))
    with pytest.raises(TrailingBytesError):
        verify(replace(evidence(), gpu=b"x"))
    with pytest.raises(MalformedEvidenceError):
        verify(replace(evidence(), data=evidence().data[:-1]))
    with pytest.raises(MalformedEvidenceError):
        verify(replace(evidence(), kind=Kind.SGX))


@pytest.mark.parametrize(
    ("place", "value"), [(0, ord("s")), (3, ord("2")), (4, 2), (5, 1), (7, 0x80)]
)
def test_magic_and_flags_of_signed_evidence(place: int, value: int) -> None:
    """Signed anew after the change, so that nothing else refuses it."""
    body = bytearray(evidence().data[:-64])
    body[place] = value
    signed = bytes(body) + KEY.sign(CONTEXT + bytes(body))
    with pytest.raises(MalformedEvidenceError, match="wrong magic or flags"):
        verify(Evidence(Kind.SIMULATED, signed))


def test_layout_by_hand() -> None:
    data = evidence(debug=True, svn=0x01020304, measurement=b"m" * 48).data
    assert data[:12].hex() == "53494d31" + "01000000" + "04030201"
    assert data[12:124] == b"m" * 48 + DATA
    assert data[124:156] == KEY.public_key().public_bytes_raw()
    KEY.public_key().verify(data[156:], b"sealtune simulated evidence v1\0" + data[:156])


def test_svn() -> None:
    policy = simulated_policy()
    asks = policy.kinds[Kind.SIMULATED].model_copy(update={"min_svn": 3})
    strict = policy.model_copy(update={"kinds": {Kind.SIMULATED: asks}})
    with pytest.raises(SvnTooLowError):
        verify(evidence(svn=2), strict)
    verify(evidence(svn=3), strict)


def test_one_bit_anywhere() -> None:
    data = evidence().data
    for place in random.Random(0).sample(range(8 * SIZE), 400):
        bad = bytearray(data)
        bad[place // 8] ^= 1 << place % 8
        with pytest.raises(AttestationError):
            verify(Evidence(Kind.SIMULATED, bytes(bad)))


def test_sizes_of_inputs() -> None:
    with pytest.raises(AttesterUnavailableError):
        SimulatedAttester(KEY).collect(b"short")
    with pytest.raises(AttesterUnavailableError):
        SimulatedAttester(KEY, measurement=b"short")


# ---- the development key ------------------------------------------------------------------


def test_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "key"
    first = load_key(path).private_bytes_raw()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_key(path).private_bytes_raw() == first
    assert [p.name for p in path.parent.iterdir()] == ["key"]


def test_default_key_is_shared_by_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_key_path().is_relative_to(tmp_path)
    SimulatedVerifier().verify(
        SimulatedAttester().collect(DATA), report_data=DATA, policy=simulated_policy(), at=NOW
    )


def test_key_readable_by_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_key(path)
    path.chmod(0o640)
    with pytest.raises(AttesterUnavailableError, match="0640"):
        load_key(path)


def test_bad_key_files(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x")
    short.chmod(0o600)
    with pytest.raises(AttesterUnavailableError, match="32"):
        load_key(short)
    with pytest.raises(AttesterUnavailableError):
        load_key(tmp_path)
    with pytest.raises(AttesterUnavailableError):
        load_key(short / "below a file")


def test_processes_that_start_together_share_the_key(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys;"
        "from sealtune.attest.platforms.simulated import load_key;"
        "print(load_key(Path(sys.argv[1])).public_key().public_bytes_raw().hex())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "key")]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ.copy()) for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in running}) == 1


def test_machines_that_the_policy_lists_have_keys_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only those: the own key of whoever verifies counts where it is on the list."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    here, there, stranger = load_key(), KEY, Ed25519PrivateKey.generate()
    public = [key.public_key().public_bytes_raw() for key in (here, there)]
    verifier = SimulatedVerifier()

    def check(key: Ed25519PrivateKey, policy: AppraisalPolicy) -> None:
        given = SimulatedAttester(key).collect(DATA)
        verifier.verify(given, report_data=DATA, policy=policy, at=NOW)

    for key in (here, there):
        check(key, simulated_policy(signers=tuple(public)))
    for key, policy in (
        (stranger, simulated_policy(signers=tuple(public))),
        (here, simulated_policy(signers=(public[1],))),
        (there, simulated_policy()),
        (here, simulated_policy(signers=())),
    ):
        with pytest.raises(UnknownSignerError):
            check(key, policy)
