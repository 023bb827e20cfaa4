"""The bill of materials of an image: CycloneDX 1.6 or SPDX 2.3, as JSON.

One image has one bill, byte for byte: it holds no time and no name of a machine; its number follows
from the image's digest. Sources: ECMA-424 (CycloneDX), SPDX specification 2.3, package-url.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from importlib import metadata
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from sealtune import __version__
from sealtune.attest.measure import program_digest
from sealtune.images.image import Contents
from sealtune.images.licences import licence
from sealtune.start import read_program

Format = Literal["cyclonedx", "spdx"]
# SPDX asks for a time; whoever compares two bills needs one that does not move.
_NO_TIME = "1970-01-01T00:00:00Z"
_NOTHING = "NOASSERTION"


class Part(NamedTuple):
    """One package.

    Attributes:
        name, version: as its registry writes them.
        url: package-url.
        algorithm, digest: SHA-256 of the package's file, or what stands for it; hex.
        licence: SPDX expression, or nothing where it is not known.
    """

    name: str
    version: str
    url: str
    algorithm: str
    digest: str
    licence: str


class Bill(NamedTuple):
    """What is described, and its parts.

    Attributes:
        name: of the whole.
        digest: SHA-256, hex.
        parts: in a fixed order.
    """

    name: str
    digest: str
    parts: tuple[Part, ...]


def of_image(contents: Contents) -> Bill:
    """The bill of an image: its packages, and sealtune's program."""
    packages = [
        _part(package.kind, package.name, package.version, package.sha256)
        for package in contents.packages
    ]
    parts = [*packages, _sealtune(contents.program, contents.code)]
    return Bill(f"sealtune-image-{contents.program}", contents.digest, _sorted(parts))


def of_program(program: str) -> Bill:
    """The bill of a program in this environment: packages that its list names and that are here.

    A package's digest is that of its RECORD, which has the hashes of its files.
    """
    names = metadata.packages_distributions()
    wanted = {one for package in read_program(program).packages for one in names.get(package, [])}
    parts = [_installed(name) for name in sorted(wanted)]
    parts.append(_sealtune(program, program_digest(program).hex()))
    digest = hashlib.sha256(json.dumps(_sorted(parts)).encode()).hexdigest()
    return Bill(f"sealtune-{program}", digest, _sorted(parts))


def write(bill: Bill, form: Format) -> bytes:
    """The bill as JSON."""
    document = _cyclonedx(bill) if form == "cyclonedx" else _spdx(bill)
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _sorted(parts: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts))


def _part(kind: str, name: str, version: str, sha256: str) -> Part:
    place, more = ("deb/debian/", "?arch=amd64") if kind == "deb" else ("pypi/", "")
    own = name if kind == "deb" else name.lower().replace("_", "-")
    url = f"pkg:{place}{quote(own, safe='.-')}@{quote(version, safe='.-~')}{more}"
    return Part(name, version, url, "SHA-256", sha256, licence(kind, name))


def _sealtune(program: str, code: str) -> Part:
    url = f"pkg:pypi/sealtune@{__version__}#{program}"
    return Part("sealtune", __version__, url, "SHA-384", code, "Apache-2.0")


def _installed(name: str) -> Part:
    found = metadata.distribution(name)
    record = (found.read_text("RECORD") or "").encode()
    part = _part("whl", name, found.version, hashlib.sha256(record).hexdigest())
    stated = found.metadata.get_all("License-Expression")
    return part._replace(licence=stated[0]) if stated else part


def _cyclonedx(bill: Bill) -> dict[str, Any]:
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, bill.digest)}",
        "metadata": {
            "tools": {
                "components": [{"type": "application", "name": "sealtune", "version": __version__}]
            },
            "component": {
                "type": "application",
                "bom-ref": bill.name,
                "name": bill.name,
                "version": bill.digest,
                "hashes": [{"alg": "SHA-256", "content": bill.digest}],
            },
        },
        "components": [_component(part) for part in bill.parts],
        "dependencies": [{"ref": bill.name, "dependsOn": [part.url for part in bill.parts]}],
    }


def _component(part: Part) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": part.url,
        "name": part.name,
        "version": part.version,
        "purl": part.url,
        "hashes": [{"alg": part.algorithm, "content": part.digest}],
    }
    if part.licence:
        component["licenses"] = [{"expression": part.licence}]
    return component


def _spdx(bill: Bill) -> dict[str, Any]:
    whole = "SPDXRef-image"
    packages = [
        _package(f"SPDXRef-{number}-{_id(part.name)}", part)
        for number, part in enumerate(bill.parts)
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bill.name,
        "documentNamespace": f"urn:sealtune:bill:{bill.digest}",
        "creationInfo": {"created": _NO_TIME, "creators": [f"Tool: sealtune-{__version__}"]},
        "hasExtractedLicensingInfos": [
            {
                "licenseId": "LicenseRef-public-domain",
                "extractedText": "in the public domain, as its authors say",
            }
        ],
        "packages": [
            {
                "SPDXID": whole,
                "name": bill.name,
                "versionInfo": bill.digest,
                "downloadLocation": _NOTHING,
                "filesAnalyzed": False,
                "licenseConcluded": _NOTHING,
                "licenseDeclared": _NOTHING,
                "copyrightText": _NOTHING,
                "checksums": [{"algorithm": "SHA256", "checksumValue": bill.digest}],
            },
            *packages,
        ],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", whole),
            *(_relation(whole, "CONTAINS", package["SPDXID"]) for package in packages),
        ],
    }


def _package(identifier: str, part: Part) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": _NOTHING,
        "filesAnalyzed": False,
        "licenseConcluded": _NOTHING,
        "licenseDeclared": part.licence or _NOTHING,
        "copyrightText": _NOTHING,
        "checksums": [{"algorithm": part.algorithm.replace("-", ""), "checksumValue": part.digest}],
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": part.url,
            }
        ],
    }


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _id(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)
