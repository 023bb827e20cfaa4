"""Manifests of a made-up NVIDIA: XML signatures in one shape, and what is read from them."""

from __future__ import annotations

import pytest

from sealtune.attest.errors import (
    BadChainError,
    BadSignatureError,
    MalformedEvidenceError,
    OversizeEvidenceError,
    StaleCollateralError,
)
from sealtune.attest.platforms.nvidia_gpu.rim import Rim, canonical, load_rim
from sealtune.attest.platforms.nvidia_gpu.rim import _parse as parse_xml
from sealtune.errors import AttestationError
from tests.attest.authority import Authority
from tests.attest.gpu import NAMESPACE, VENDOR, resource, sign_manifest
from tests.attest.public import day, flips

A, B = b"\xaa" * 48, b"\xbb" * 48
GOOD = sign_manifest("550.AB", {0: [A], 7: [A, B]})


def load(raw: bytes, at: str = "2025-01-01") -> Rim:
    return load_rim(raw, roots=VENDOR.roots, at=day(at))


def test_read() -> None:
    assert load(GOOD) == Rim("GH100", "550.ab", {0: (A,), 7: (A, B)})
    assert load(sign_manifest("1", resource(0, [A], active="False"))).values == {}
    most = sign_manifest("1", {99_999: [A] * 64})
    assert load(most).values == {99_999: (A,) * 64}


@pytest.mark.parametrize(
    ("root", "namespace"),
    [
        ("SoftwareIdentity", "http://standards.iso.org/iso/19770/-2/2009/schema.xsd"),
        ("CoRIM", NAMESPACE),
        ("softwareidentity", NAMESPACE),
    ],
)
def test_signed_xml_that_is_no_swid_tag(root: str, namespace: str) -> None:
    """Whatever else the vendor signs with that key is no manifest."""
    with pytest.raises(MalformedEvidenceError, match="not a SWID tag"):
        load(sign_manifest("1", {0: [A]}, root=root, namespace=namespace))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (resource(0, [A]) + resource(0, [B]), "entry 0 of the manifest is repeated"),
        (
            resource(0, [A]) + resource(0, [B], active="False"),
            "entry 0 of the manifest is repeated",
        ),
        (resource(0, []), "entry 0 of the manifest is repeated or empty"),
        (resource(0, [A] * 65), "repeated or empty"),
        (resource(0, [A], alternatives=2), "lacks the attribute Hash1"),
        (resource(0, [A], alternatives=0), "repeated or empty"),
        (resource("x", [A]), "a number in the manifest"),
        (resource("-1", [A]), "a number in the manifest"),
        (resource("", [A]), "a number in the manifest"),
        (resource("٣", [A]), "a number in the manifest"),  # a digit, though no ASCII
        (resource("100000", [A]), "a number in the manifest"),
        (resource(0, [A], alternatives="1.0"), "a number in the manifest"),
        ('<Resource alternatives="1" active="True"/>', "lacks the attribute index"),
        ('<Resource index="1" active="True"/>', "lacks the attribute alternatives"),
        ('<Resource index="1" alternatives="1" h:Hash0="aa"/>', "lacks the attribute active"),
        (
            '<Resource index="1" alternatives="1" active="True" Hash0="aa"/>',
            "lacks the attribute Hash0",
        ),
        (
            '<Resource index="1" alternatives="1" active="True" h:Hash0="xy"/>',
            "a digest in the manifest is not hex",
        ),
    ],
)
def test_entries(entries: str, said: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=said):
        load(sign_manifest("1", entries))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"', None),
        ("xmldsig-more#ecdsa-sha384", "xmldsig-more#ecdsa-sha256"),
        ('URI=""', 'URI="#part"'),
        ("#enveloped-signature", "#base64"),
        ('xml-c14n11"/></ds:Transforms>', 'xml-c14n"/></ds:Transforms>'),
        (
            '<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></ds:Transforms>',
            "</ds:Transforms>",
        ),
        ('"http://www.w3.org/2001/04/xmldsig-more#sha384"', '"http://www.w3.org/2000/09/x#sha1"'),
    ],
)
def test_signatures_of_another_shape(old: str, new: str | None) -> None:
    """Each part of the shape, changed before it was signed: the signature itself is right."""
    if new is None:
        new = old.replace("xml-c14n11", "xml-exc-c14n")
    with pytest.raises(BadSignatureError, match="signed in a way that is not supported"):
        load(sign_manifest("1", {0: [A]}, shape=(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        (b'index="0"', b'index="1"', BadSignatureError, "altered after it was signed"),
        (b"</SoftwareIdentity>", b"<x/></SoftwareIdentity>", BadSignatureError, "altered"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA", BadSignatureError, "99 bytes, not 96"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>!", BadChainError, "base64"),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue><y/>", MalformedEvidenceError, "not text"),
        (b"<ds:X509Certificate>", b"<ds:X509Certificate>!", BadChainError, "base64"),
        (b"</SoftwareIdentity>", b"<?x y?></SoftwareIdentity>", MalformedEvidenceError, "document"),
        (
            b"<SoftwareIdentity",
            b"<!DOCTYPE x><SoftwareIdentity",
            MalformedEvidenceError,
            "document",
        ),
        (b'name="GH100"', b'name="GH100" xml:id="a"', MalformedEvidenceError, "xml: attribute"),
        (b"<Meta", b"<q:Meta", MalformedEvidenceError, "undeclared namespace"),
        (b"</SoftwareIdentity>", b"", MalformedEvidenceError, "not well-formed"),
        (b"ds:KeyInfo>", b"ds:KeyInf>", MalformedEvidenceError, "not well-formed"),
    ],
)
def test_altered(old: bytes, new: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        load(GOOD.replace(old, new, 1))


def test_signature_of_another_key_or_over_other_words() -> None:
    """The digest fits the document, and the chain is the vendor's; the signature is another's."""
    other = sign_manifest("550.AB", {0: [A], 7: [A, B]})
    start, end = b"<ds:SignatureValue>", b"</ds:SignatureValue>"
    value = other[other.index(start) : other.index(end)]
    own = GOOD[GOOD.index(start) : GOOD.index(end)]
    with pytest.raises(BadSignatureError, match="signature over the report is wrong"):
        load(GOOD.replace(own, value))
    with pytest.raises(BadSignatureError, match="is wrong"):
        load(GOOD.replace(b"<ds:SignedInfo>", b"<ds:SignedInfo> "))


def test_parts_that_must_be_there_once() -> None:
    signature = GOOD[GOOD.index(b"<ds:Signature ") : GOOD.index(b"</SoftwareIdentity>")]
    for raw, said in (
        (GOOD.replace(signature, signature * 2), "2 Signature"),
        (GOOD.replace(signature, b""), "0 Signature"),
        (GOOD.replace(b"<ds:KeyInfo>", b"<ds:KeyInfo/><ds:KeyInfo>"), "2 KeyInfo"),
        (GOOD.replace(b"<ds:X509Data>", b"<ds:X509Data/><ds:X509Data>"), "2 X509Data"),
    ):
        with pytest.raises(MalformedEvidenceError, match=said):
            load(raw)
    twice = sign_manifest("1", "</Payload><Payload>")
    with pytest.raises(MalformedEvidenceError, match="2 Payload"):
        load(twice)
    first, last = GOOD.index(b"<ds:X509Certificate>"), GOOD.index(b"</ds:X509Data>")
    with pytest.raises(BadChainError, match="no issuer"):
        load(GOOD[:first] + GOOD[last:])


def test_time_and_roots() -> None:
    for when in ("2023-12-31", "2049-01-02"):
        with pytest.raises(StaleCollateralError):
            load(GOOD, when)
    with pytest.raises(BadChainError, match="pinned root"):
        load_rim(GOOD, at=day("2025-01-01"))
    with pytest.raises(BadChainError, match="pinned root"):
        load(sign_manifest("1", {0: [A]}, vendor=Authority()))


def test_one_bit() -> None:
    honest = load(GOOD)
    for raw in flips(GOOD, 400, seed=9):
        try:
            rim = load(raw)
        except AttestationError:
            continue
        assert rim == honest  # unused bits of base64 around the signature


def test_size_and_depth() -> None:
    with pytest.raises(OversizeEvidenceError, match="limit 262144"):
        load(b" " * ((1 << 18) + 1))
    with pytest.raises(MalformedEvidenceError, match="not well-formed"):
        load(b" " * (1 << 18))
    for depth, said in ((16, "0 Signature"), (17, "nested too deeply")):
        with pytest.raises(MalformedEvidenceError, match=said):
            load(b"<a>" * depth + b"</a>" * depth)
    for raw in (b"", b"text", b"\xff\xfe<", b"<a b='1' b='2'/>", b"<a>&undefined;</a>"):
        with pytest.raises(MalformedEvidenceError):
            load(raw)


def test_base64_may_have_lines() -> None:
    """As signing tools write it: white space inside values is theirs."""
    start = GOOD.index(b"<ds:SignatureValue>") + len(b"<ds:SignatureValue>")
    assert load(GOOD[:start] + b"\n  " + GOOD[start : start + 20] + b"\r\n" + GOOD[start + 20 :])


def test_canonical_form_by_hand() -> None:
    """The parts of Canonical XML 1.1 that are left after the refusals."""
    xml = (
        b'<?xml version="1.0"?>\r\n<!-- c --><b:r z="&#9;" xmlns:b="urn:b" a=\'"&lt;&amp;\' '
        b'xmlns="urn:d" b:c="1"><e/><f xmlns="urn:e" xmlns:b="urn:b">&lt;&gt;&amp;&#13;\r\n</f>'
        b'<!-- c --><g xmlns=""/></b:r>'
    )
    assert canonical(parse_xml(xml)) == (
        b'<b:r xmlns="urn:d" xmlns:b="urn:b" a="&quot;&lt;&amp;" z="&#x9;" b:c="1"><e></e>'
        b'<f xmlns="urn:e">&lt;&gt;&amp;&#xD;\n</f><g xmlns=""></g></b:r>'
    )


def test_canonical_attributes_by_hand() -> None:
    xml = b"<r a='&#10;&#13;&#9;&gt;&apos;' xmlns:z='u:1' xmlns:y='u:2' z:a='1' y:b='2' b='3'/>"
    assert canonical(parse_xml(xml)) == (
        b'<r xmlns:y="u:2" xmlns:z="u:1" a="&#xA;&#xD;&#x9;>\'" b="3" z:a="1" y:b="2"></r>'
    )
