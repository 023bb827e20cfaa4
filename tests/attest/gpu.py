"""A made-up NVIDIA: GPUs with certificates and reports, and signed manifests of what they run."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealtune.attest import Claims, Evidence, Kind
from sealtune.attest.platforms.certs import load_pem_chain
from sealtune.attest.platforms.nvidia_gpu.report import OID_DEVICE, OID_FWID, NvidiaVerifier
from sealtune.attest.platforms.nvidia_gpu.rim import _parse as parse_xml
from sealtune.attest.platforms.nvidia_gpu.rim import canonical
from tests.attest.authority import Authority, sign_raw
from tests.attest.public import day, policy

VENDOR = Authority()
NONCE = bytes(range(32))
FWID = b"\xf1" * 48
DRIVER, VBIOS = "550.90.07", "96.00.9f.00.01"
STATUSES = ("Unchecked", "RimMatched")
# Measurements by SPDM's index, from 1; entry 36 is NVDEC0's.
BLOCKS = {1: b"\x01" * 48, 2: b"\x02" * 48, 36: b"\x24" * 48, 40: b"\x28" * 48}
DRIVER_ENTRIES, VBIOS_ENTRIES = (35, 39), (0, 1)  # of manifests, from 0


def alternative_name(text: str, *, oid: str = OID_DEVICE) -> bytes:
    """An otherName with a short UTF8String, in DER."""
    value = b"\x0c" + bytes((len(text),)) + text.encode()
    name = x509.OtherName(x509.ObjectIdentifier(oid), value)
    return x509.SubjectAlternativeName([name]).public_bytes()


def device(
    name: str = "NVIDIA:GH100:48B02DF44660DA06",
    *,
    fwid: bytes = FWID,
    vendor: Authority = VENDOR,
    **more: bytes,
) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A GPU's key and its chain."""
    extensions = {OID_FWID: b"\x30\x32" + fwid, "2.5.29.17": alternative_name(name)}
    extensions |= {oid.lstrip("x").replace("_", "."): value for oid, value in more.items()}
    return vendor.leaf("GH100 AK", {oid: value for oid, value in extensions.items() if value})


def block(index: int, value: bytes, *, specification: int = 1, size: int | None = None) -> bytes:
    """A DMTF measurement block."""
    size = len(value) if size is None else size
    return struct.pack("<BBHBH", index, specification, 3 + len(value), 1, size) + value


def field(number: int, value: bytes) -> bytes:
    """One of NVIDIA's opaque fields."""
    return struct.pack("<HH", number, len(value)) + value


def opaque(
    *, driver: str = DRIVER, vbios: str = VBIOS, fwid: bytes = FWID, nvdec0: bytes = b"\xaa"
) -> bytes:
    digits = bytes.fromhex(vbios.replace(".", ""))
    version = digits[3::-1] + digits[4:] + bytes(3)
    return (
        field(3, driver.encode() + b"\0")
        + field(6, version)
        + field(11, nvdec0)
        + field(20, fwid)
        + field(99, b"not looked at")
    )


def report(
    key: ec.EllipticCurvePrivateKey,
    *,
    nonce: bytes = NONCE,
    head: bytes = b"\x11\xe0\x01\xff",
    answer: bytes = b"\x11\x60\0\0",
    record: bytes | None = None,
    count: int | None = None,
    fields: bytes | None = None,
) -> bytes:
    """A signed request and response; what is left out is right."""
    if record is None:
        record = b"".join(block(index, value) for index, value in BLOCKS.items())
    count = len(BLOCKS) if count is None else count
    fields = opaque() if fields is None else fields
    signed = head + nonce + b"\0" + answer + bytes((count,)) + len(record).to_bytes(3, "little")
    signed += record + b"\x77" * 32 + struct.pack("<H", len(fields)) + fields
    r, s = sign_raw(key, signed)
    return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def entry(raw: bytes, chain: bytes, **change: Any) -> dict[str, Any]:
    """One GPU in NVIDIA's JSON."""
    return {
        "arch": "HOPPER",
        "certificate": base64.b64encode(chain).decode(),
        "evidence": base64.b64encode(raw).decode(),
        "nonce": NONCE.hex(),
    } | change


def one(**fields: Any) -> bytes:
    """Evidence of one GPU, its report made with ``fields``."""
    key, chain = device()
    return json.dumps([entry(report(key, **fields), chain)]).encode()


def verify(
    data: bytes,
    *,
    rims: tuple[bytes, ...] = (),
    nonce: bytes = NONCE,
    at: str = "2025-01-01",
    kind: Kind = Kind.NVIDIA_GPU,
    endorsements: bytes = b"",
    **settings: Any,
) -> Claims:
    """Appraise under the made-up roots; ``settings`` are of the policy."""
    roots = VENDOR.roots
    return NvidiaVerifier(rims, roots=roots, rim_roots=roots).verify(
        Evidence(kind, data, endorsements),
        report_data=nonce,
        policy=policy(Kind.NVIDIA_GPU, **{"tcb_statuses": STATUSES, **settings}),
        at=day(at),
    )


# ---- manifests --------------------------------------------------------------------------------

NAMESPACE = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SWID = (
    '<{root} xmlns="{namespace}" '
    'xmlns:h="http://www.w3.org/2001/04/xmlenc#sha384" name="GH100">'
    '<Meta product="{product}" colloquialVersion="{version}"/><Payload>{entries}</Payload>'
    "{signature}</{root}>"
)
SIGNATURE = (
    '<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo>'
    '<ds:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>'
    '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/>'
    '<ds:Reference URI=""><ds:Transforms>'
    '<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    '<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></ds:Transforms>'
    '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>'
    "<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    "<ds:SignatureValue>{value}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>{chain}"
    "</ds:X509Data></ds:KeyInfo></ds:Signature>"
)


def resource(index: object, digests: list[bytes], *, active: str = "True", **change: Any) -> str:
    """An entry of a manifest."""
    hashes = " ".join(f'h:Hash{i}="{digest.hex()}"' for i, digest in enumerate(digests))
    fields = {"index": index, "active": active, "alternatives": len(digests)} | change
    plain = " ".join(f'{name}="{value}"' for name, value in fields.items())
    return f"<Resource {plain} {hashes}/>"


def sign_manifest(
    version: str,
    entries: str | dict[int, list[bytes]],
    *,
    product: str = "GH100",
    root: str = "SoftwareIdentity",
    namespace: str = NAMESPACE,
    shape: tuple[str, str] = ("", ""),
    vendor: Authority = VENDOR,
) -> bytes:
    """A manifest of the made-up vendor; ``shape`` replaces a part of what is signed with what."""
    if not isinstance(entries, str):
        entries = "".join(resource(index, digests) for index, digests in entries.items())
    key, chain = vendor.leaf("signer")
    certificates = "".join(
        f"<ds:X509Certificate>{base64.b64encode(der).decode()}</ds:X509Certificate>"
        for der in (c.public_bytes(serialization.Encoding.DER) for c in load_pem_chain(chain))
    )

    def text(signature: str) -> str:
        return SWID.format(
            version=version,
            entries=entries,
            product=product,
            root=root,
            namespace=namespace,
            signature=signature,
        )

    digest = hashlib.sha384(canonical(parse_xml(text("").encode()))).digest()
    fields = {"digest": base64.b64encode(digest).decode(), "chain": certificates}
    template = SIGNATURE.replace(*shape)
    signature = parse_xml(text(template.format(value="", **fields)).encode()).children[-1]
    r, s = sign_raw(key, canonical(signature.children[0]))  # type: ignore[union-attr,arg-type]
    value = base64.b64encode(r.to_bytes(48, "big") + s.to_bytes(48, "big")).decode()
    return text(template.format(value=value, **fields)).encode()


def manifests(
    *, driver: str = DRIVER, vbios: str = VBIOS, change: dict[int, list[bytes]] | None = None
) -> tuple[bytes, bytes]:
    """Those of a GPU's driver and VBIOS; ``change`` replaces entries, by index from 0."""
    values = {i - 1: [bytes(48), digest] for i, digest in BLOCKS.items()} | (change or {})
    return (
        sign_manifest(driver, {i: values[i] for i in DRIVER_ENTRIES}),
        sign_manifest(vbios.upper(), {i: values[i] for i in VBIOS_ENTRIES}),
    )
