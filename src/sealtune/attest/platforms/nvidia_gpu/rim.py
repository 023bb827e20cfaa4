"""NVIDIA's reference integrity manifests: signed XML that lists the firmware digests of a version.

Source: ISO/IEC 19770-2 SWID tags, TCG RIM information model, W3C XML Signature, Canonical XML 1.1.

XML signatures are a minefield, so exactly one shape is accepted: an enveloped signature as a child
of the root, over the whole document (URI ""), Canonical XML 1.1, SHA-384, ECDSA P-384. The values
are read from the very tree whose canonical form was hashed. Document types, entities, processing
instructions and ``xml:`` attributes are refused, which leaves a small part of canonicalisation.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from xml.parsers import expat

from sealtune.attest.errors import (
    BadChainError,
    BadSignatureError,
    MalformedEvidenceError,
    OversizeEvidenceError,
)
from sealtune.attest.platforms.certs import load_der, verify_chain, verify_p384

# SHA-256 of "NVIDIA CoRIM signing Root CA".
RIM_ROOTS = frozenset(
    {bytes.fromhex("12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1")}
)
MAX_RIM = 1 << 18  # bytes; real ones have 20,000
MAX_DEPTH = 16
DSIG = "http://www.w3.org/2000/09/xmldsig#"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED = f"{DSIG}enveloped-signature"
SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH = "http://www.w3.org/2001/04/xmlenc#sha384"


@dataclass(frozen=True)
class Rim:
    """A verified manifest.

    Attributes:
        product: chip, such as GH100.
        version: of the driver or VBIOS, lower case.
        values: accepted digests of each active entry, by index from 0.
    """

    product: str
    version: str
    values: Mapping[int, tuple[bytes, ...]]


@dataclass
class _Node:
    """An element: raw name, attributes but no declarations, namespaces in scope, children."""

    name: str
    attributes: list[tuple[str, str]]
    scope: dict[str, str]
    children: list[_Node | str] = field(default_factory=list)

    def expand(self, name: str, *, attribute: bool = False) -> tuple[str, str]:
        """Namespace and local part of a raw name."""
        prefix, _, local = name.rpartition(":")
        if attribute and not prefix:
            return "", local
        if prefix and prefix not in self.scope:
            raise MalformedEvidenceError("manifest uses an undeclared namespace")
        return self.scope.get(prefix, ""), local

    def find(self, namespace: str, local: str) -> list[_Node]:
        """Child elements of a name."""
        return [
            child
            for child in self.children
            if isinstance(child, _Node) and child.expand(child.name) == (namespace, local)
        ]

    def only(self, namespace: str, local: str) -> _Node:
        """The one child element of a name."""
        found = self.find(namespace, local)
        if len(found) != 1:
            raise MalformedEvidenceError(f"manifest has {len(found)} {local} elements, not one")
        return found[0]

    def get(self, local: str, namespace: str = "") -> str:
        """An attribute's value."""
        for name, value in self.attributes:
            if self.expand(name, attribute=True) == (namespace, local):
                return value
        raise MalformedEvidenceError(f"manifest lacks the attribute {local}")

    @property
    def text(self) -> str:
        """The text of an element without child elements."""
        if any(isinstance(child, _Node) for child in self.children):
            raise MalformedEvidenceError(f"element {self.name} of the manifest is not text")
        return "".join(child for child in self.children if isinstance(child, str))


def load_rim(raw: bytes, *, roots: Collection[bytes] = RIM_ROOTS, at: datetime) -> Rim:
    """Parse and verify one manifest.

    Raises:
        OversizeEvidenceError, MalformedEvidenceError: not such a manifest.
        BadChainError, StaleCollateralError: signed by somebody else, or the key has expired.
        BadSignatureError: altered.
    """
    root = _parse(raw)
    signature = root.only(DSIG, "Signature")
    info = signature.only(DSIG, "SignedInfo")
    expected = _expected_digest(info)
    # The enveloped transform: the document without its signature.
    root.children.remove(signature)
    if not hmac.compare_digest(hashlib.sha384(canonical(root)).digest(), expected):
        raise BadSignatureError("the manifest was altered after it was signed")
    data = signature.only(DSIG, "KeyInfo").only(DSIG, "X509Data")
    chain = [load_der(_decode(node.text)) for node in data.find(DSIG, "X509Certificate")]
    verify_chain(chain, roots=roots, at=at, what="manifest")
    value = _decode(signature.only(DSIG, "SignatureValue").text)
    if len(value) != 96:
        raise BadSignatureError(f"the manifest's signature has {len(value)} bytes, not 96")
    r, s = int.from_bytes(value[:48], "big"), int.from_bytes(value[48:], "big")
    verify_p384(chain[0], r, s, canonical(info), "manifest")
    return _read(root)


def _expected_digest(info: _Node) -> bytes:
    """The digest in SignedInfo, which must ask for the one supported shape."""
    reference = info.only(DSIG, "Reference")
    transforms = reference.only(DSIG, "Transforms").find(DSIG, "Transform")
    shape = (
        info.only(DSIG, "CanonicalizationMethod").get("Algorithm"),
        info.only(DSIG, "SignatureMethod").get("Algorithm"),
        reference.get("URI"),
        [node.get("Algorithm") for node in transforms],
        reference.only(DSIG, "DigestMethod").get("Algorithm"),
    )
    if shape != (C14N11, ECDSA_SHA384, "", [ENVELOPED, C14N11], SHA384):
        raise BadSignatureError("the manifest is signed in a way that is not supported")
    return _decode(reference.only(DSIG, "DigestValue").text)


def _read(root: _Node) -> Rim:
    if root.expand(root.name) != (SWID, "SoftwareIdentity"):
        raise MalformedEvidenceError("the manifest is not a SWID tag")
    meta = root.only(SWID, "Meta")
    values: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    for node in root.only(SWID, "Payload").find(SWID, "Resource"):
        index, count = _number(node.get("index")), _number(node.get("alternatives"))
        if index in seen or not 1 <= count <= 64:
            raise MalformedEvidenceError(f"entry {index} of the manifest is repeated or empty")
        seen.add(index)
        digests = tuple(_unhex(node.get(f"Hash{i}", HASH)) for i in range(count))
        if node.get("active") != "False":
            values[index] = digests
    return Rim(meta.get("product"), meta.get("colloquialVersion").lower(), values)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise MalformedEvidenceError("a number in the manifest is not one")
    return int(text)


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise MalformedEvidenceError("a digest in the manifest is not hex") from error


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise BadChainError("base64 in the manifest's signature is malformed") from error


# ---- XML --------------------------------------------------------------------------------------


def _parse(raw: bytes) -> _Node:
    if len(raw) > MAX_RIM:
        raise OversizeEvidenceError(f"manifest of {len(raw)} bytes, limit {MAX_RIM}")
    top = _Node("", [], {"xml": "http://www.w3.org/XML/1998/namespace"})
    stack = [top]

    def start(name: str, flat: list[str]) -> None:
        if len(stack) > MAX_DEPTH:
            raise MalformedEvidenceError("manifest is nested too deeply")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if any(key.startswith("xml:") for key, _ in pairs):
            raise MalformedEvidenceError("manifest has an xml: attribute")
        declared = {k.partition(":")[2]: v for k, v in pairs if k.partition(":")[0] == "xmlns"}
        plain = [pair for pair in pairs if pair[0].partition(":")[0] != "xmlns"]
        node = _Node(name, plain, stack[-1].scope | declared)
        stack[-1].children.append(node)
        stack.append(node)

    def end(_: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].children.append(data)

    def refuse(*_: object) -> None:
        raise MalformedEvidenceError("manifest has a document type or processing instruction")

    parser = expat.ParserCreate()
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.ProcessingInstructionHandler = refuse
    try:
        parser.Parse(raw, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise MalformedEvidenceError("manifest is not well-formed XML") from error
    (root,) = (child for child in top.children if isinstance(child, _Node))  # XML has one
    return root


def canonical(apex: _Node) -> bytes:
    """Canonical XML 1.1 of an element as the apex of a document subset, without comments.

    An apex renders all namespaces in its scope; elements below it those that they change.
    """
    parts: list[str] = []
    _render(apex, {"xml": apex.scope.get("xml", "")}, parts)
    return "".join(parts).encode()


def _render(node: _Node, rendered: dict[str, str], out: list[str]) -> None:
    changed = {prefix: uri for prefix, uri in node.scope.items() if rendered.get(prefix, "") != uri}
    out.append(f"<{node.name}")
    for prefix in sorted(changed):  # the default namespace, "", comes first
        out.append(f' xmlns{":" if prefix else ""}{prefix}="{_attribute(changed[prefix])}"')
    by_name = sorted(node.attributes, key=lambda pair: node.expand(pair[0], attribute=True))
    for name, value in by_name:
        out.append(f' {name}="{_attribute(value)}"')
    out.append(">")
    for child in node.children:
        if isinstance(child, str):
            text = child.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            out.append(text.replace("\r", "&#xD;"))
        else:
            _render(child, {**rendered, **changed}, out)
    out.append(f"</{node.name}>")


def _attribute(value: str) -> str:
    for plain, escaped in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ('"', "&quot;"),
        ("\t", "&#x9;"),
        ("\n", "&#xA;"),
        ("\r", "&#xD;"),
    ):
        value = value.replace(plain, escaped)
    return value
