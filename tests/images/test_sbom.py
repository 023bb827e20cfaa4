"""Bills of materials: the same image, the same bytes; and what readers of them rely on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sealtune.attest.measure import program_digest
from sealtune.cli.main import app
from sealtune.images.licences import licence
from sealtune.images.lock import Package, read_lock
from sealtune.images.sbom import Format, of_image, of_program, write
from sealtune.start import read_program
from tests.images import made_up

_UUID = r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_HEX = {"SHA-256": 64, "SHA-384": 96, "SHA256": 64, "SHA384": 96}


def bill(folder: Path, form: Format, **more: Any) -> dict[str, Any]:
    image = made_up.image(folder, **more)
    found: dict[str, Any] = json.loads(write(of_image(image.contents), form))
    return found


@pytest.mark.parametrize("form", ["cyclonedx", "spdx"])
def test_one_image_has_one_bill(form: Format, tmp_path: Path) -> None:
    bills = []
    for name, packages in (("a", made_up.PACKAGES), ("b", made_up.PACKAGES[::-1])):
        image = made_up.image(tmp_path / name, packages=packages)
        bills.append(write(of_image(image.contents), form))
    assert bills[0] == bills[1]
    other = made_up.image(tmp_path / "c", initrd=b"other")
    assert write(of_image(other.contents), form) != bills[0]
    assert b"/tmp" not in bills[0]


def test_cyclonedx_is_laid_out_as_its_schema_asks(tmp_path: Path) -> None:
    """What schema 1.6 requires; the whole schema accepted such bills when this was written."""
    found = bill(tmp_path, "cyclonedx")
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(_UUID, found["serialNumber"])
    references = [component["bom-ref"] for component in found["components"]]
    assert len(set(references)) == len(references) == 3
    (depends,) = found["dependencies"]
    assert depends["ref"] == found["metadata"]["component"]["bom-ref"]
    assert sorted(depends["dependsOn"]) == sorted(references)
    for component in found["components"]:
        assert component["type"] == "library"
        assert component["purl"].startswith("pkg:")
        for one in component["hashes"]:
            assert re.fullmatch(rf"[0-9a-f]{{{_HEX[one['alg']]}}}", one["content"])
    by_name = {component["name"]: component for component in found["components"]}
    assert by_name["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64"
    assert by_name["libc6"]["hashes"][0]["content"] == "ab" * 32
    assert by_name["numpy"]["purl"] == "pkg:pypi/numpy@2.4.0"
    assert by_name["sealtune"]["hashes"] == [{"alg": "SHA-384", "content": "12" * 48}]
    assert by_name["libc6"]["licenses"] == [{"expression": "LGPL-2.1-or-later"}]


def test_spdx_is_laid_out_as_its_specification_asks(tmp_path: Path) -> None:
    """What version 2.3 requires; spdx-tools accepted such bills when this was written."""
    found = bill(tmp_path, "spdx")
    assert (found["spdxVersion"], found["dataLicense"]) == ("SPDX-2.3", "CC0-1.0")
    assert re.fullmatch(r"urn:[a-z0-9:]+", found["documentNamespace"])
    assert found["creationInfo"]["created"] == "1970-01-01T00:00:00Z"
    identifiers = [package["SPDXID"] for package in found["packages"]]
    assert len(set(identifiers)) == len(identifiers) == 4
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", one) for one in identifiers)
    related = {one["relatedSpdxElement"] for one in found["relationships"]}
    assert related == set(identifiers)
    for package in found["packages"]:
        assert package["downloadLocation"] == "NOASSERTION"
        for one in package["checksums"]:
            assert re.fullmatch(rf"[0-9a-f]{{{_HEX[one['algorithm']]}}}", one["checksumValue"])


def test_a_package_without_a_known_licence_is_listed_without_one(tmp_path: Path) -> None:
    strange = Package(kind="whl", name="strange", version="1", sha256="ef" * 32)
    found = bill(tmp_path, "cyclonedx", packages=(strange,))
    assert "licenses" not in found["components"][1]
    spdx = bill(tmp_path, "spdx", packages=(strange,))
    assert "NOASSERTION" in [package["licenseDeclared"] for package in spdx["packages"]]


def test_every_package_that_images_are_made_of_has_a_licence() -> None:
    packages = read_lock().packages
    assert [one.label for one in packages if not licence(one.kind, one.name)] == []


def test_a_program_of_this_environment() -> None:
    found = of_program("aggregator")
    names = {part.name.lower() for part in found.parts}
    assert {"numpy", "cryptography", "pydantic", "sealtune"} <= names
    assert "torch" not in names
    assert "pytest" not in names
    (own,) = [part for part in found.parts if part.name == "sealtune"]
    assert own.digest == program_digest("aggregator").hex()
    assert "torch" in read_program("split-server").packages
    assert "torch" in {part.name for part in of_program("split-server").parts}


def test_the_command(tmp_path: Path) -> None:
    made_up.image(tmp_path / "image")
    out = tmp_path / "bill.json"

    def run(*words: str) -> int:
        code: int = CliRunner().invoke(app, ["image", "sbom", *words]).exit_code
        return code

    assert run(str(tmp_path / "image"), "-o", str(out)) == 0
    said = CliRunner().invoke(app, ["image", "sbom", str(tmp_path / "image")])
    assert said.stdout_bytes == out.read_bytes()
    assert run() == 2
    assert run("--program", "nobody") == 2
    assert run("--program", "relay", "--format", "spdx") == 0
    (tmp_path / "image" / "vmlinuz").write_bytes(b"other")
    assert run(str(tmp_path / "image")) == 10
