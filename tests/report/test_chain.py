"""The picture of who checked whom."""

from __future__ import annotations

from sealtune.report.evidence import SERVER, Verdict, chain
from sealtune.report.methods import view_of
from tests.report.sample_run import Json


def verdict(
    by: str, who: str, *, confidential: bool, same_job: bool = True, kind: str = "tdx"
) -> Verdict:
    return Verdict(by, who, kind, confidential, same_job, 1.8e9)


def drawn(*verdicts: Verdict) -> Json:
    return chain(verdicts, ("north",), view_of("federated-lora"))


def looks(picture: Json) -> list[str]:
    """Of the site, of what it proved, of what was proved to it, of the server."""
    (row,) = picture["rows"]
    return [row["end"]["look"], *(p["look"] for p in row["proofs"]), picture["server"]["look"]]


def said(picture: Json) -> str:
    return "; ".join(proof["said"] for row in picture["rows"] for proof in row["proofs"])


def test_hardware_evidence_for_this_job_is_not_drawn_as_broken() -> None:
    picture = drawn(
        verdict(SERVER, "north", confidential=True),
        verdict("north", SERVER, confidential=True),
    )
    assert looks(picture) == ["enclave"] * 4
    assert [proof["way"] for proof in picture["rows"][0]["proofs"]] == ["forth", "back"]
    assert "protects nothing" not in said(picture)
    assert "2027-01-15" in said(picture)


def test_evidence_of_another_job_or_of_no_hardware_is_broken() -> None:
    for bad in (
        verdict(SERVER, "north", confidential=False, kind="simulated"),
        verdict(SERVER, "north", confidential=True, same_job=False),
    ):
        picture = drawn(bad, verdict("north", SERVER, confidential=True))
        assert looks(picture) == ["simulated", "simulated", "enclave", "enclave"]
        assert "server checked the site" in said(picture)
        assert "protects nothing" in said(picture)
        assert "test root" not in said(picture)


def test_evidence_under_a_test_root_is_named_and_broken() -> None:
    picture = drawn(verdict(SERVER, "north", confidential=False, kind="sev-snp"))
    assert "sev-snp under a test root, protects nothing" in said(picture)
    assert looks(picture) == ["simulated"] * 4


def test_a_verdict_that_lacks_is_named() -> None:
    picture = drawn(verdict(SERVER, "north", confidential=True))
    assert "site checked the server: not recorded" in said(picture)
    assert [proof["drawn"] for proof in picture["rows"][0]["proofs"]] == [True, False]
    assert looks(picture) == ["enclave", "enclave", "simulated", "simulated"]
