"""A job's network in its manifest: every part is parsed, and has one spelling."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from sealtune.errors import MalformedManifestError
from sealtune.job.manifest import manifest_bytes, parse_manifest
from sealtune.job.network import (
    NetworkIdentity,
    host_and_port,
    key_fingerprint,
    node_fingerprint,
    read_certificate,
)
from sealtune.job.network_keys import new_certificate, new_node_key
from tests.job.sample import NETWORK, make_manifest

GOOD = NETWORK.model_dump(mode="json")
DAY = datetime.timedelta(days=1)


def test_it_is_part_of_what_is_signed() -> None:
    manifest = make_manifest(network=NETWORK)
    assert parse_manifest(manifest_bytes(manifest)).network == NETWORK
    assert make_manifest().network is None


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("relay.example.org:9092", ("relay.example.org", 9092)),
        ("localhost:1", ("localhost", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[2001:db8::1]:9092", ("2001:db8::1", 9092)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address",
    ["", "host", "host:", ":9092", "host:0", "host:09", "host:65536", "host:99999", "host:9 ",
     "Relay.test:1", "a..b:1", "-a:1", "a-:1", "a_b:1", "10.0.0.256:1", "10.0.1:1", "10.0.0.01:1",
     "2001:db8::1:9092", "[2001:db8:0::1]:1", "[2001:DB8::1]:1", "[::g]:1", "[10.0.0.1]:1",
     "host:1\n", "http://host:1", "a" * 64 + ":1", "host:\u0661", "x" * 300 + ":1"],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"look like|ports are"):
        host_and_port(address)


def made(key: Any = None, signer: Any = None, ca: bool | None = False, issuer: str = "a") -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("a"))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - DAY)
        .not_valid_after(now + 800 * DAY)
    )
    names = [x509.DNSName("relay.test"), x509.DNSName("192.0.2.1")]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


CERTIFICATE = NETWORK.certificate


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lambda: "", "self-signed"),
        (lambda: "x" * 4097, "at most 4096"),
        (lambda: CERTIFICATE * 2, "nothing else"),
        (lambda: CERTIFICATE + "\n", "nothing else"),
        (lambda: "hello\n" + CERTIFICATE, "nothing else"),
        (lambda: CERTIFICATE.replace("\n", "\r\n"), "nothing else"),
        (lambda: CERTIFICATE[:200] + CERTIFICATE[210:], "self-signed"),
        (lambda: made(signer=ec.generate_private_key(ec.SECP256R1())), "its own key"),
        (lambda: made(issuer="b"), "self-signed"),
        (lambda: made(ca=True), "vouch for others"),
        (lambda: made(ca=None), "self-signed"),
        (lambda: made(rsa.generate_private_key(65537, 2048)), "curves"),
        (lambda: made(ec.generate_private_key(ec.SECP521R1())), "curves"),
    ],
)
def test_what_is_no_certificate_of_a_relay(text: Callable[[], str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_certificate(text())


def other_curve() -> str:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: {"sites_at": GOOD["server_at"]}, "the same address"),
        (lambda: {"sites_at": "elsewhere.test:1"}, "not for elsewhere.test"),
        (lambda: {"server_at": "192.0.2.2:1"}, "not for 192.0.2.2"),
        (lambda: {"certificate": made()}, "not for 192.0.2.1"),  # a DNS name is no address
        (lambda: {"certificate": GOOD["server_certificate"]}, "is for no host"),
        (lambda: {"server_certificate": GOOD["certificate"]}, "the same key"),
        (lambda: {"nodes": dict.fromkeys(GOOD["nodes"], GOOD["nodes"]["north"])}, "the same key"),
        (lambda: {"nodes": {}}, "nodes"),
        (lambda: {"nodes": {"north": GOOD["nodes"]["north"] + " comment"}}, "without a comment"),
        (lambda: {"nodes": {"north": other_curve()}}, "nistp384"),
        (lambda: {"nodes": {"north": "x" * 301}}, "nistp384"),
        (lambda: {"nodes": {"north": "ecdsa-sha2-nistp384 AAAA"}}, "OpenSSH"),
        (lambda: {"extra": 1}, "extra"),
    ],
)
def test_parts_that_do_not_go_together(change: Callable[[], dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        NetworkIdentity.model_validate(GOOD | change())


def test_nodes_are_those_of_the_sites() -> None:
    nodes = {"north": GOOD["nodes"]["north"]}
    network = NetworkIdentity.model_validate(GOOD | {"nodes": nodes})
    with pytest.raises(MalformedManifestError, match="the nodes of network are north"):
        make_manifest(network=network)


def test_a_certificate_lasts_as_long_as_the_manifest() -> None:
    hosts = ("relay.test", "192.0.2.1")
    short = new_certificate("coordinator", hosts, datetime.timedelta(days=29))[1]
    network = NetworkIdentity.model_validate(GOOD | {"certificate": short})
    with pytest.raises(MalformedManifestError, match="not valid as long"):
        make_manifest(network=network)
    assert make_manifest(network=network, valid=datetime.timedelta(days=28)).network


def test_fingerprints_differ_by_key() -> None:
    _, line = new_node_key()
    relay, link = NETWORK.parsed()
    prints = {node_fingerprint(line), *(key_fingerprint(one.public_key()) for one in (relay, link))}
    assert {len(one) for one in prints} == {64}
    assert len(prints) == 3
