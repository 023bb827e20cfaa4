"""Certificates: PEM in one spelling, chains to a pinned root, keys and extensions."""

from __future__ import annotations

import base64
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealtune.attest.errors import BadChainError, BadSignatureError, StaleCollateralError
from sealtune.attest.platforms.certs import (
    MAX_CERTIFICATES,
    common_name,
    digest,
    extension,
    issued_chain,
    load_der,
    load_pem_bundle,
    load_pem_chain,
    verify_chain,
    verify_p384,
)
from tests.attest.authority import END, START, Authority, sign_raw

VENDOR = Authority()
KEY, PEM = VENDOR.leaf("leaf", {"1.2.3.4": b"\x05\0"})
CHAIN = load_pem_chain(PEM)
SECOND = datetime.timedelta(seconds=1)


def check(chain: list[x509.Certificate], at: datetime.datetime = START) -> None:
    verify_chain(chain, roots=VENDOR.roots, at=at, what="test")


# ---- PEM --------------------------------------------------------------------------------------


def wrapped(der: bytes, width: int = 64, end: bytes = b"\n") -> bytes:
    text = base64.b64encode(der)
    lines = [text[at : at + width] + end for at in range(0, len(text), width)]
    head, foot = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    return head + end + b"".join(lines) + foot + end


DER = CHAIN[0].public_bytes(serialization.Encoding.DER)


def test_pem_has_one_spelling() -> None:
    assert [common_name(one) for one in CHAIN] == ["leaf", "middle", "root"]
    assert load_pem_chain(PEM.replace(b"\n", b"\r\n")) == CHAIN
    assert load_pem_chain(PEM.rstrip(b"\n")) == CHAIN
    assert load_pem_chain(wrapped(DER, 76)) == CHAIN[:1]
    for other in (
        b" " + PEM,
        b"\n" + PEM,
        PEM + b"\n",
        PEM + b"x",
        PEM.replace(b"\n", b" \n", 1),
        PEM.replace(b"MII", b"M\nII ", 1),
        wrapped(DER, 77),
        wrapped(DER + b"\0"),
        PEM[:-30],
        b"",
        PEM + PEM + PEM,
    ):
        with pytest.raises(BadChainError):
            load_pem_chain(other)
    one = wrapped(DER)
    assert len(load_pem_chain(one * MAX_CERTIFICATES)) == MAX_CERTIFICATES
    with pytest.raises(BadChainError, match="too long"):
        load_pem_chain(one * (MAX_CERTIFICATES + 1))
    with pytest.raises(BadChainError, match="not an X"):
        load_der(DER[:-1])


def test_base64_has_one_spelling() -> None:
    """The last digit before the padding has bits that decode to nothing."""
    ders = (
        load_pem_chain(VENDOR.leaf("x" * size)[1])[0].public_bytes(serialization.Encoding.DER)
        for size in range(1, 60)
    )
    der = next(der for der in ders if len(der) % 3 == 1)
    pem = wrapped(der)
    assert len(load_pem_chain(pem)) == 1
    at = pem.index(b"==") - 1
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = alphabet[alphabet.index(pem[at]) + 1 :][:1]
    same = base64.b64decode(b"".join((pem[:at] + other + pem[at + 1 :]).split(b"\n")[1:-2]))
    assert same == der
    for wrong in (pem[:at] + other + pem[at + 1 :], pem.replace(b"==", b"=")):
        with pytest.raises(BadChainError, match="base64"):
            load_pem_chain(wrong)


def test_bundle_of_at_most_eight() -> None:
    others = [Authority().leaf(f"leaf {number}")[1] for number in range(2)]
    assert len(load_pem_bundle(PEM + others[0])) == 6
    two = b"".join(others[1].partition(b"-----END CERTIFICATE-----\n")[:2])
    six = PEM + others[0]
    assert len(load_pem_bundle(six + others[1][: others[1].rindex(b"-----BEGIN")])) == 8
    assert len(load_pem_bundle(six + two + PEM)) == 7
    with pytest.raises(BadChainError, match="more than 8"):
        load_pem_bundle(six + others[1])


# ---- chains -----------------------------------------------------------------------------------


def test_chain() -> None:
    check(CHAIN)
    check(CHAIN[1:])
    for wrong, said in (
        (CHAIN[2:], "no issuer"),
        ([], "no issuer"),
        (CHAIN[:2], "pinned root"),
        (load_pem_chain(Authority().leaf("leaf")[1]), "pinned root"),
        ([CHAIN[0], CHAIN[2]], "not issued by root"),
        ([CHAIN[1], CHAIN[0], CHAIN[2]], "not issued by"),
        ([CHAIN[0], CHAIN[0], CHAIN[1], CHAIN[2]], "not issued by"),
    ):
        with pytest.raises(BadChainError, match=said):
            check(wrong)
    other = load_pem_chain(Authority().leaf("leaf")[1])
    for forged in ([other[0], *CHAIN[1:]], [*other[:2], CHAIN[2]]):  # right names, other keys
        with pytest.raises(BadChainError, match="not issued by"):
            check(forged)


def test_issuer_must_be_a_ca() -> None:
    vendor = Authority(intermediate_is_ca=False)
    chain = load_pem_chain(vendor.leaf("leaf")[1])
    with pytest.raises(BadChainError, match="middle of the test chain may not issue"):
        verify_chain(chain, roots=vendor.roots, at=START, what="test")


def test_validity_to_the_second() -> None:
    check(CHAIN, START)
    check(CHAIN, END)
    for when in (START - SECOND, END + SECOND):
        with pytest.raises(StaleCollateralError, match=r"\(leaf\) is valid from 2024-01-01"):
            check(CHAIN, when)


def test_chain_in_order() -> None:
    for bundle in (CHAIN, CHAIN[::-1], [CHAIN[1], *CHAIN]):
        assert issued_chain(CHAIN[0], bundle) == CHAIN
    assert issued_chain(CHAIN[0], [CHAIN[0], CHAIN[2]]) == CHAIN[:1]
    assert issued_chain(CHAIN[2], CHAIN) == CHAIN[2:]
    other = load_pem_chain(Authority().leaf("leaf")[1])
    assert issued_chain(CHAIN[0], [*other, *CHAIN]) == CHAIN


def test_names_of_others_do_not_steer_a_terminal() -> None:
    chain = load_pem_chain(Authority().leaf("a\x1b[2J\u202eb")[1])
    with pytest.raises(BadChainError) as caught:
        verify_chain([chain[0], *CHAIN[1:]], roots=VENDOR.roots, at=START, what="test")
    assert r"a\x1b[2J\u202eb of the test chain" in str(caught.value)
    assert str(caught.value).isprintable()


# ---- keys and extensions ----------------------------------------------------------------------


def test_signature() -> None:
    r, s = sign_raw(KEY, b"signed")
    verify_p384(CHAIN[0], r, s, b"signed", "test")
    for wrong in ((r, s, b"other"), (s, r, b"signed"), (0, 0, b"signed"), (r + 1, s, b"signed")):
        with pytest.raises(BadSignatureError):
            verify_p384(CHAIN[0], *wrong, "test")
    with pytest.raises(BadSignatureError):
        verify_p384(CHAIN[1], r, s, b"signed", "test")


@pytest.mark.parametrize("kind", ["P-256", "RSA"])
def test_key_of_another_kind(kind: str) -> None:
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
        ec.generate_private_key(ec.SECP256R1())
        if kind == "P-256"
        else rsa.generate_private_key(65537, 2048)
    )
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(START)
        .not_valid_after(END)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(BadChainError, match="no P-384 key"):
        verify_p384(certificate, 1, 1, b"", "test")
    assert common_name(certificate) == ""


def test_extension() -> None:
    assert extension(CHAIN[0], "1.2.3.4") == b"\x05\0"
    assert extension(CHAIN[0], "1.2.3.5") is None
    assert extension(CHAIN[0], "2.5.29.19") is None  # known to the library, so no vendor's
    assert digest(CHAIN[0]) == CHAIN[0].fingerprint(hashes.SHA256())
