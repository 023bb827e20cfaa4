"""SGX and TDX quotes of a made-up Intel: root, platform, quoting enclave and collateral."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sealtune.attest import Claims, Evidence, Kind
from sealtune.attest.platforms.certs import digest
from sealtune.attest.platforms.intel.dcap import DcapVerifier
from tests.attest.authority import END, START, common_name
from tests.attest.public import SERVER, day, policy

AT = "2025-06-15"
ISSUED, EXPIRES = "2025-06-01T00:00:00Z", "2025-07-01T00:00:00Z"
FMSPC, PPID = bytes.fromhex("b0c06f000000"), b"\x99" * 16
CPU_SVN = bytes((2, 2, 2, 2, 3, 1, 0, 5)) + bytes(8)
TEE_TCB_SVN = bytes((6, 1, 3)) + bytes(13)
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
REPORT_DATA = bytes(range(64))
TD_SEPT_VE = 1 << 28
SGX_OID = "1.2.840.113741.1.13.1"
Key = ec.EllipticCurvePrivateKey


@cache
def key(name: str) -> Key:
    """A key that stays the same within a run of tests."""
    return ec.generate_private_key(ec.SECP256R1())


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    head = bytes((size,)) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + head + content


def _entry(path: bytes, value: bytes) -> bytes:
    return der(0x30, der(0x06, bytes.fromhex("2a864886f84d010d01") + path) + value)


def pck_extension(*, flags: tuple[bool, bool, bool] = (True, True, True)) -> bytes:
    """What a platform's certificate says: PPID, TCB, FMSPC, dynamic, cached keys, SMT."""

    def integer(value: int) -> bytes:
        return der(0x02, bytes((value,)))

    components = b"".join(_entry(bytes((2, i + 1)), integer(CPU_SVN[i])) for i in range(16))
    tcb = components + _entry(b"\x02\x11", integer(11)) + _entry(b"\x02\x12", der(0x04, CPU_SVN))
    configuration = b"".join(
        _entry(bytes((7, i + 1)), der(0x01, b"\xff" if flag else b"\0"))
        for i, flag in enumerate(flags)
    )
    return der(
        0x30,
        _entry(b"\x01", der(0x04, PPID))
        + _entry(b"\x02", der(0x30, tcb))
        + _entry(b"\x03", der(0x04, bytes(2)))
        + _entry(b"\x04", der(0x04, FMSPC))
        + _entry(b"\x05", der(0x0A, b"\x01"))
        + _entry(b"\x06", der(0x04, bytes(16)))
        + _entry(b"\x07", der(0x30, configuration)),
    )


def certificate(
    name: str, issuer: str, *, ca: bool = False, more: bytes = b"", serial: int = 0
) -> x509.Certificate:
    """A certificate of ``key(name)``, issued by ``key(issuer)``."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name(name))
        .issuer_name(common_name(issuer))
        .public_key(key(name).public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(_usage(ca=ca), critical=True)
    )
    if more:
        extra = x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_OID), more)
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(key(issuer), hashes.SHA256())


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=not ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


ROOT = certificate("Intel SGX Root CA", "Intel SGX Root CA", ca=True)
ROOTS = {digest(ROOT)}
PLATFORM_CA = certificate("Intel SGX PCK Platform CA", "Intel SGX Root CA", ca=True)
TCB_SIGNER = certificate("Intel SGX TCB Signing", "Intel SGX Root CA")
PCK = "Intel SGX PCK Certificate"
PCK_SERIAL = 77


def chain(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def pck(**change: Any) -> x509.Certificate:
    """The platform's certificate."""
    extension = pck_extension(**change)
    return certificate(PCK, "Intel SGX PCK Platform CA", more=extension, serial=PCK_SERIAL)


def revocations(issuer: str, *serials: int, issued: str = ISSUED, expires: str = EXPIRES) -> bytes:
    """A revocation list in DER."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(common_name(issuer))
        .last_update(datetime.fromisoformat(issued))
        .next_update(datetime.fromisoformat(expires))
        .add_extension(x509.CRLNumber(1), critical=False)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial)
        builder = builder.add_revoked_certificate(
            revoked.revocation_date(datetime.fromisoformat(issued)).build()
        )
    crl = builder.sign(key(issuer), hashes.SHA256())
    return crl.public_bytes(serialization.Encoding.DER)


def raw_signature(name: str, data: bytes) -> bytes:
    """r and s of ECDSA P-256 with SHA-256, 64 bytes."""
    r, s = decode_dss_signature(key(name).sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@dataclass
class Tables:
    """What Intel says of the platform; ``status`` is its verdict, with ``advisories``."""

    kind: Kind = Kind.TDX
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    evaluation: int = 17
    qe_status: str = "UpToDate"
    revoked: tuple[int, ...] = ()
    issued: str = ISSUED
    expires: str = EXPIRES
    change: dict[str, Any] = field(default_factory=dict)

    def _dated(self, **more: Any) -> dict[str, Any]:
        return {
            "issueDate": self.issued,
            "nextUpdate": self.expires,
            "tcbEvaluationDataNumber": self.evaluation,
            **more,
        }

    def _tcb_info(self) -> str:
        components = [{"svn": svn} for svn in CPU_SVN]
        tcb: dict[str, Any] = {"sgxtcbcomponents": components, "pcesvn": 11}
        more: dict[str, Any] = {}
        module = {
            "mrsigner": "00" * 48,
            "attributes": "00" * 8,
            "attributesMask": "FF" * 8,
        }
        if self.kind is Kind.TDX:
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in (5, 0, *TEE_TCB_SVN[2:])]
            levels = [
                {"tcb": {"isvsvn": 3}, "tcbDate": ISSUED, "tcbStatus": "UpToDate"},
            ]
            more = {
                "tdxModule": module,
                "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": levels}],
            }
        level = {
            "tcb": tcb,
            "tcbDate": "2025-05-01T00:00:00Z",
            "tcbStatus": self.status,
            "advisoryIDs": list(self.advisories),
        }
        name = "TDX" if self.kind is Kind.TDX else "SGX"
        fields = {"fmspc": FMSPC.hex().upper(), "pceId": "0000", "tcbType": 0}
        whole = {"id": name, "version": 3} | self._dated(**fields, **more, tcbLevels=[level])
        return json.dumps(whole | self.change)

    def _qe_identity(self) -> str:
        name, product = ("TD_QE", 2) if self.kind is Kind.TDX else ("QE", 1)
        level = {"tcb": {"isvsvn": 4}, "tcbDate": "2025-05-01T00:00:00Z"}
        fields = {
            "id": name,
            "version": 2,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11" + "00" * 15,
            "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8,
            "mrsigner": "DC" * 32,
            "isvprodid": product,
            "tcbLevels": [level | {"tcbStatus": self.qe_status}],
        }
        return json.dumps(self._dated(**fields))

    def encode(self) -> bytes:
        """As `QuoteCollateralV3` JSON."""
        tcb, qe = self._tcb_info(), self._qe_identity()
        signer = "Intel SGX TCB Signing"
        dates = {"issued": self.issued, "expires": self.expires}
        chain_of_signer = chain(TCB_SIGNER, ROOT).decode()
        return json.dumps(
            {
                "pck_crl_issuer_chain": chain(PLATFORM_CA, ROOT).decode(),
                "root_ca_crl": revocations("Intel SGX Root CA", **dates).hex(),
                "pck_crl": revocations("Intel SGX PCK Platform CA", *self.revoked, **dates).hex(),
                "tcb_info_issuer_chain": chain_of_signer,
                "tcb_info": tcb,
                "tcb_info_signature": raw_signature(signer, tcb.encode()).hex(),
                "qe_identity_issuer_chain": chain_of_signer,
                "qe_identity": qe,
                "qe_identity_signature": raw_signature(signer, qe.encode()).hex(),
            }
        ).encode()


def _enclave(attributes: int, **fields: bytes) -> bytes:
    """An SGX report body, 384 bytes."""
    raw = bytearray(384)
    raw[:16] = CPU_SVN
    struct.pack_into("<QQ", raw, 48, attributes, 0xE7)
    places = {"mrenclave": 64, "mrsigner": 128, "config": 192, "numbers": 256, "data": 320}
    for name, value in fields.items():
        raw[places[name] : places[name] + len(value)] = value
    return bytes(raw)


def sgx_body(
    *,
    attributes: int = 0x5,
    config: bytes = b"",
    product: int = 3,
    svn: int = 2,
    config_svn: int = 0,
) -> bytes:
    """An enclave with MRENCLAVE 0xee…, MRSIGNER 0x55…"""
    return _enclave(
        attributes,
        mrenclave=b"\xee" * 32,
        mrsigner=b"\x55" * 32,
        config=config,
        numbers=struct.pack("<HHH", product, svn, config_svn),
        data=REPORT_DATA,
    )


def td_body(
    *, attributes: int = TD_SEPT_VE, large: bool = False, change: dict[int, bytes] | None = None
) -> bytes:
    """A TD report body, 584 bytes, or 648 of TDX 1.5; ``change`` puts bytes at offsets."""
    raw = bytearray(648 if large else 584)
    raw[:16] = TEE_TCB_SVN
    raw[16:64] = b"\x5e" * 48
    struct.pack_into("<QQ", raw, 120, attributes, 0xE7)
    for index in range(8):
        raw[136 + 48 * index : 184 + 48 * index] = bytes((index + 1,)) * 48
    raw[520:584] = REPORT_DATA
    if large:
        raw[584:600] = TEE_TCB_SVN
    for at, value in (change or {}).items():
        raw[at : at + len(value)] = value
    return bytes(raw)


def quote(
    body: bytes,
    *,
    version: int = 4,
    key_type: int = 2,
    tee: int | None = None,
    certificates: bytes | None = None,
    certification: int = 6,
    chain_type: int = 5,
    qe_svn: int = 4,
    signer: str = "attestation key",
) -> bytes:
    """A signed quote around a body; what is left out is right."""
    sgx = len(body) == 384
    tee = (0 if sgx else 0x81) if tee is None else tee
    head = struct.pack("<HHI4s16s20s", version, key_type, tee, b"", QE_VENDOR, b"")
    if version == 5:
        kind = {384: 1, 584: 2, 648: 3}[len(body)]
        head += struct.pack("<HI", kind, len(body))
    public = key("attestation key").public_key().public_numbers()
    point = public.x.to_bytes(32, "big") + public.y.to_bytes(32, "big")
    authentication = bytes(range(32))
    qe = _enclave(
        0x15,
        mrsigner=b"\xdc" * 32,
        numbers=struct.pack("<HH", 1 if sgx else 2, qe_svn),
        data=hashlib.sha256(point + authentication).digest(),
    )
    pem = chain(pck(), PLATFORM_CA, ROOT) if certificates is None else certificates
    inner = qe + raw_signature(PCK, qe) + struct.pack("<H", 32) + authentication
    inner += struct.pack("<HI", chain_type, len(pem)) + pem
    if version > 3:
        inner = struct.pack("<HI", certification, len(inner)) + inner
    auth = raw_signature(signer, head + body) + point + inner
    return head + body + struct.pack("<I", len(auth)) + auth


def verify(
    raw: bytes,
    tables: Tables | None = None,
    *,
    kind: Kind = Kind.TDX,
    at: str = AT,
    report_data: bytes = REPORT_DATA,
    collateral: bytes | None = None,
    roots: Collection[bytes] = frozenset(ROOTS),
    **settings: Any,
) -> Claims:
    """Appraise under the made-up root; ``settings`` are of the policy."""
    sent = (tables or Tables(kind)).encode() if collateral is None else collateral
    return DcapVerifier(kind, roots=roots).verify(
        Evidence(kind, raw, sent),
        report_data=report_data,
        policy=policy(kind, **{"allow": SERVER, **settings}),
        at=day(at),
    )
