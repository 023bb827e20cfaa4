"""The picture of who checked whom."""

from __future__ import annotations

from sealtune.report.chain import Chain, chain
from sealtune.report.evidence import SERVER, Verdict
from sealtune.report.methods import view_of


def verdict(
    by: str, who: str, *, confidential: bool, same_job: bool = True, kind: str = "tdx"
) -> Verdict:
    return Verdict(by, who, kind, confidential, same_job, 1.8e9)


def drawn(*verdicts: Verdict) -> Chain:
    return chain(verdicts, ("north",), view_of("federated-lora"))


def said(picture: Chain) -> str:
    return "; ".join(proof.said for _, *proofs in picture.rows for proof in proofs)


def test_hardware_evidence_for_this_job_is_not_drawn_as_broken() -> None:
    picture = drawn(
        verdict(SERVER, "north", confidential=True),
        verdict("north", SERVER, confidential=True),
    )
    ((site, forth, back),) = picture.rows
    assert {site.look, forth.look, back.look, picture.server.look} == {"enclave"}
    assert (forth.forth, back.forth) == (True, False)
    assert "protects nothing" not in said(picture)
    assert "2027-01-15" in said(picture)


def test_evidence_of_another_job_or_of_no_hardware_is_broken() -> None:
    for bad in (
        verdict(SERVER, "north", confidential=False, kind="simulated"),
        verdict(SERVER, "north", confidential=True, same_job=False),
    ):
        picture = drawn(bad, verdict("north", SERVER, confidential=True))
        ((site, forth, _),) = picture.rows
        assert (site.look, forth.look, picture.server.look) == ("simulated", "simulated", "enclave")
        assert "protects nothing" in forth.said
        assert "test root" not in forth.said


def test_evidence_under_a_test_root_is_named_and_broken() -> None:
    picture = drawn(verdict(SERVER, "north", confidential=False, kind="sev-snp"))
    assert "sev-snp under a test root, protects nothing" in said(picture)
    assert picture.rows[0][0].look == "simulated"


def test_a_verdict_that_lacks_is_named() -> None:
    picture = drawn(verdict(SERVER, "north", confidential=True))
    assert "site checked the server: not recorded" in said(picture)
    assert not picture.rows[0][2].drawn
    assert picture.server.look == "simulated"
