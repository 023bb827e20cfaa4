"""``sealtune image measure``: what people and programs get, and the policy that it writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sealtune.attest.appraise import Appraiser
from sealtune.attest.errors import UnknownMeasurementError
from sealtune.attest.evidence import Evidence, Kind
from sealtune.attest.files import load_policies
from sealtune.attest.platforms import platform
from sealtune.attest.platforms.intel.dcap import td_registers
from sealtune.attest.platforms.intel.quote import parse_quote
from sealtune.cli.image_measure import FILL
from sealtune.cli.main import app
from sealtune.errors import ConfigError
from sealtune.images.measure_snp import SnpLaunch, snp_measurement
from sealtune.images.measure_tdx import tdx_measurement, tdx_registers
from tests.attest import intel
from tests.attest.software_tee import SoftwareTee
from tests.images import made_up

ROLES = ("server", "site")
FILLED = {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84}


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["image", "measure", *map(str, words)], env={"COLUMNS": "200"})


def as_json(*words: str | Path) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture
def ovmf(tmp_path: Path) -> Path:
    path = tmp_path / "ovmf.fd"
    path.write_bytes(made_up.firmware())
    return path


def test_a_policy_is_refused_until_the_versions_are_filled_in(tmp_path: Path, ovmf: Path) -> None:
    image = made_up.image(tmp_path / "image")
    policy = tmp_path / "policy.json"
    said = run(tmp_path / "image", "--ovmf", ovmf, "--vcpus", "4", "--policy-out", policy)
    assert said.exit_code == 0, said.stderr
    assert f"refused until every '{FILL}'" in said.stdout
    with pytest.raises(ConfigError, match=r"min_tcb\.Genoa\.snp"):
        load_policies(policy, ROLES)
    table = json.loads(policy.read_text())
    table["server"]["kinds"]["sev-snp"]["snp"]["min_tcb"]["Genoa"] = FILLED
    policy.write_text(json.dumps(table))
    accepted = load_policies(policy, ROLES)["server"].kinds[Kind.SEV_SNP]
    launch = SnpLaunch(ovmf=ovmf, vcpus=4, vcpu_type="EPYC-Genoa")
    assert accepted.measurements == (snp_measurement(image, launch).hex(),)
    assert accepted.tcb_statuses == ("MinimumMet",)
    assert accepted.allow == ()


def test_a_tdx_policy_without_a_quote_is_refused(tmp_path: Path) -> None:
    made_up.image(tmp_path / "image", program="site-enclave")
    policy = tmp_path / "policy.json"
    found = as_json(tmp_path / "image", "--policy-out", policy)
    assert found["measurement"] is None
    assert list(json.loads(policy.read_text())) == ["site"]
    with pytest.raises(ConfigError, match="measurements"):
        load_policies(policy, ROLES)


def test_evidence_of_the_machine_completes_it(tmp_path: Path) -> None:
    """A quote of the same machine, whatever it booted, gives MRTD and RTMR0."""
    image = made_up.image(tmp_path / "image")
    quote = tmp_path / "quote.bin"
    quote.write_bytes(intel.quote(intel.td_body()))
    registers = td_registers(parse_quote(quote.read_bytes()))
    policy = tmp_path / "policy.json"
    found = as_json(tmp_path / "image", "--from", quote, "--policy-out", policy)
    assert found["measurement"] == tdx_measurement(image, registers).hex()
    assert found["evidence"]["differs"] == ["measurement", "RTMR1", "RTMR2"]
    accepted = load_policies(policy, ROLES)["server"].kinds[Kind.TDX]
    assert accepted.measurements == (found["measurement"],)
    given = [f"--{name.lower()}={registers[name].hex()}" for name in ("MRTD", "RTMR0")]
    assert as_json(tmp_path / "image", *given)["RTMR1"] == tdx_registers(image)["RTMR1"].hex()


@pytest.mark.parametrize("booted", ["the image", "another initrd"])
def test_evidence_is_accepted_of_the_measured_image_alone(
    booted: str, tmp_path: Path, ovmf: Path
) -> None:
    """The policy as it was written, against a TEE in software that reports what it booted."""
    launch = SnpLaunch(ovmf=ovmf, vcpus=1, vcpu_type="EPYC-Genoa")
    made_up.image(tmp_path / "image")
    initrd = b"initrd" if booted == "the image" else b"with a back door"
    code = snp_measurement(made_up.image(tmp_path / "booted", initrd=initrd), launch)
    policy = tmp_path / "policy.json"
    with SoftwareTee(tmp_path / "tee", Kind.SEV_SNP, code=code) as tee:
        report, certificates = platform(Kind.SEV_SNP, tmp_path / "tee").collect(bytes(64))
        (tmp_path / "report").write_bytes(report)
        run(
            tmp_path / "image",
            "--ovmf",
            ovmf,
            "--from",
            tmp_path / "report",
            "--policy-out",
            policy,
        )
        table = json.loads(policy.read_text())
        accepted = table["server"]["kinds"]["sev-snp"]
        accepted |= {"insecure_test_root": tee.test_root, "allow": ["smt"]}
        policy.write_text(json.dumps(table))
        one = load_policies(policy, ROLES)["server"]
        evidence = Evidence(Kind.SEV_SNP, report, certificates)
        appraiser = Appraiser({Kind.SEV_SNP: []})
        now = datetime.now(UTC)
        if booted == "the image":
            claims = appraiser.verify(evidence, report_data=bytes(64), policy=one, at=now)
            assert claims.measurement == code.hex()
        else:
            with pytest.raises(UnknownMeasurementError):
                appraiser.verify(evidence, report_data=bytes(64), policy=one, at=now)


def test_roles_of_one_job_come_together_in_one_file(tmp_path: Path, ovmf: Path) -> None:
    policy = tmp_path / "policy.json"
    for program in ("aggregator", "site-enclave"):
        made_up.image(tmp_path / program, program=program, initrd=program.encode())
        run(tmp_path / program, "--ovmf", ovmf, "--policy-out", policy)
    table = json.loads(policy.read_text())
    assert sorted(table) == ["server", "site"]
    measured = [table[role]["kinds"]["sev-snp"]["measurements"] for role in sorted(table)]
    assert measured[0] != measured[1]
    # measured anew, a role is replaced and the other one kept
    made_up.image(tmp_path / "aggregator", initrd=b"newer")
    run(tmp_path / "aggregator", "--ovmf", ovmf, "--policy-out", policy)
    after = json.loads(policy.read_text())
    assert after["site"] == table["site"]
    assert after["server"] != table["server"]


def test_a_file_that_is_no_policy_is_left_as_it_is(tmp_path: Path, ovmf: Path) -> None:
    made_up.image(tmp_path / "image")
    policy = tmp_path / "policy.json"
    for content in ('{"kinds": {}}', "no json", "[]"):
        policy.write_text(content)
        result = run(tmp_path / "image", "--ovmf", ovmf, "--policy-out", policy)
        assert result.exit_code == 2
        assert policy.read_text() == content


def test_mistakes_are_named(tmp_path: Path, ovmf: Path) -> None:
    folder = tmp_path / "image"
    made_up.image(folder)
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    for words, said in (
        (("--kind", "sgx"), "sev-snp, tdx"),
        (("--kind", "sev-snp"), "needs the firmware"),
        (("--ovmf", ovmf, "--guest-features", "one"), "hex"),
        (("--mrtd", "abc"), "96 hex digits"),
        (("--from", tmp_path / "noise"), "no TDX quote"),
        (("--ovmf", ovmf, "--from", tmp_path / "noise"), "no sev-snp evidence"),
        (("--ovmf", ovmf, "--vcpu-type", "i486"), "EPYC-Milan"),
    ):
        result = run(folder, *words)
        assert result.exit_code == 2, words
        assert said in " ".join(result.stderr.split()), words
    (folder / "cmdline").write_text("init=/bin/sh")
    assert "not what was built" in run(folder).stderr
