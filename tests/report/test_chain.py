"""The picture of who checked whom."""

from __future__ import annotations

from xml.etree import ElementTree

from sealtune.report import chain
from sealtune.report.evidence import SERVER, Attested

HOSTILE = "<script>alert(1)</script>"


def verdict(by: str, who: str, *, confidential: bool, same_job: bool = True) -> Attested:
    return Attested(by, who, "tdx", confidential, same_job, 1.8e9)


def drawn(*verdicts: Attested, sites: tuple[str, ...] = ("north",)) -> str:
    picture = str(chain.draw(verdicts, sites, signed=True))
    ElementTree.fromstring(picture)  # well-formed, or this raises
    return picture


def test_hardware_evidence_for_this_job_is_not_drawn_as_broken() -> None:
    both = (
        verdict(SERVER, "north", confidential=True),
        verdict("north", SERVER, confidential=True),
    )
    picture = drawn(*both)
    assert "protects nothing" not in picture
    assert "simulated-line" not in picture
    assert "2027-01-15" in picture


def test_evidence_of_another_job_or_of_no_hardware_is_broken() -> None:
    for bad in (
        verdict(SERVER, "north", confidential=False),
        verdict(SERVER, "north", confidential=True, same_job=False),
    ):
        assert "protects nothing" in drawn(bad)


def test_a_verdict_that_lacks_is_named() -> None:
    picture = drawn(verdict(SERVER, "north", confidential=True))
    assert "site checked the server: not recorded" in picture


def test_names_are_text() -> None:
    assert HOSTILE not in drawn(sites=(HOSTILE,))
