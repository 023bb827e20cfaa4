"""`sealtune attest` as a person uses it: what it prints, its verdicts, its exit codes."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sealtune.attest import Evidence, Kind, platforms
from sealtune.attest.platforms.intel.quote import parse_quote
from sealtune.attest.platforms.simulated import SimulatedAttester
from sealtune.cli.attest import challenge_data
from sealtune.cli.main import app
from tests.attest import amd
from tests.attest.public import SERVER, needs_fixtures, recorded_file
from tests.attest.public import policy as appraisal
from tests.attest.software_tee import SoftwareTee

NONCE = "ab" * 32


@pytest.fixture(autouse=True)
def own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the development key of whoever runs it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def run(*words: object) -> Result:
    return CliRunner().invoke(
        app, ["attest", *(str(word) for word in words)], env={"COLUMNS": "200"}
    )


def recorded(name: str, kind: str, *collateral: str, at: str, **more: object) -> Result:
    words: list[object] = ["verify", recorded_file(name), "--kind", kind, "--at", at]
    for one in collateral:
        words += ["--collateral", recorded_file(one)]
    for option, value in more.items():
        words += [f"--{option.replace('_', '-')}", value]
    return run(*words)


def write_policy(folder: Path, kind: str, **settings: Any) -> Path:
    path = folder / "policy.json"
    accepted = appraisal(Kind(kind), **settings)
    path.write_text(accepted.model_dump_json())
    return path


TDX = ("dcap-qvl/tdx_quote", "tdx", "dcap-qvl/tdx_quote_collateral.json")
MILAN = (
    "virtee-sev/report_milan.hex",
    "sev-snp",
    "virtee-sev/vcek_milan.der",
    "virtee-sev/cert_chain_milan",
)
BAD_VCEK = (
    "trustee/snp/test-report.bin",
    "sev-snp",
    "trustee/snp/test-vcek-invalid-new.der",
    "go-sev-guest/ask_ark_milan.pem",
)
DEBUG_SNP = (
    "go-sev-guest/attestation.bin",
    "sev-snp",
    "go-sev-guest/vcek.testcer",
    "go-sev-guest/ask_ark_milan.pem",
)
MINIMUM = {"min_tcb": {"Milan": {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}}}
SGX = ("dcap-qvl/sgx_quote", "sgx", "dcap-qvl/sgx_quote_collateral.json")
GPU = ("nvidia-attestation-sdk/hopper_evidence.json", "nvidia-gpu")
OUTDATED = ("dcap-qvl/tdx_quote_outdated", "tdx", "dcap-qvl/tdx_quote_outdated_collateral.json")


# ---- recorded evidence ------------------------------------------------------------------------


@needs_fixtures
@pytest.mark.parametrize(
    ("what", "at", "settings", "status"),
    [
        (TDX, "2025-07-01", {"allow": SERVER}, "UpToDate"),
        (
            SGX,
            "2025-07-01T12:00:00Z",
            {"tcb_statuses": ["ConfigurationAndSWHardeningNeeded"], "advisories": "any"},
            "ConfigurationAndSWHardeningNeeded",
        ),
        (MILAN, "2025-01-01", {"allow": ["smt"], "snp": MINIMUM}, "MinimumMet"),
        (GPU, "2025-01-01", {"tcb_statuses": ["Unchecked"]}, "Unchecked"),
    ],
)
def test_accepted(
    what: tuple[str, ...], at: str, settings: dict[str, Any], status: str, tmp_path: Path
) -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    policy = write_policy(tmp_path, what[1], **settings)
    result = recorded(*what, at=at, policy=policy)
    assert result.exit_code == 0, result.output
    assert result.output.rstrip().endswith("ACCEPTED")
    assert "signatures are genuine" in result.output
    rows = dict(line.split(None, 1) for line in result.output.splitlines() if line[:2] == "  ")
    assert "measurement" in rows
    assert status in result.output
    assert "could be a copy" in result.output  # no nonce was given


@needs_fixtures
@pytest.mark.parametrize(
    ("what", "at", "settings", "code", "words"),
    [
        (TDX, "2025-07-01", {}, 86, "has smt, dynamic-platform, cached-keys, which"),
        (TDX, "2025-09-01", {"allow": SERVER}, 76, "NOT VERIFIED"),
        (TDX[:2], "2025-07-01", {"allow": SERVER}, 77, "NOT VERIFIED"),
        (OUTDATED, "2026-03-01", {"allow": SERVER}, 78, "No matching TCB level"),
        (SGX, "2025-07-01", {}, 78, "does not accept: INTEL-SA-00289, INTEL-SA-00615"),
        (("trustee/tdx/tdx_quote_4.dat", "tdx"), "2025-07-01", {}, 80, "debug mode"),
        (DEBUG_SNP, "2025-06-01", {}, 80, "debug             YES"),
        (BAD_VCEK, "2025-06-01", {}, 75, "NOT VERIFIED"),
        (MILAN, "2025-01-01", {"snp": {"min_tcb": {}}}, 78, "(min_tcb) for Milan"),
        (GPU, "2025-01-01", {}, 78, "--collateral"),
        (("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", "tdx"), "2025-01-01", {}, 71, "39 bytes"),
        (("trustee/nvidia/verifier_device_root.pem", "nvidia-gpu"), "2025-01-01", {}, 70, "PEM"),
    ],
)
def test_refused_with_the_exit_code_of_the_reason(
    what: tuple[str, ...], at: str, settings: dict[str, Any], code: int, words: str, tmp_path: Path
) -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    result = recorded(*what, at=at, policy=write_policy(tmp_path, what[1], **settings))
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "REFUSED" in result.output
    assert f"exit code {code})" in result.output
    assert "ACCEPTED" not in result.output


@needs_fixtures
def test_report_data_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    policy = write_policy(tmp_path, "tdx", allow=SERVER)
    result = recorded(*TDX, at="2025-07-01", policy=policy, report_data="00" * 64)
    assert result.exit_code == 84
    raw = recorded_file(TDX[0]).read_bytes()
    bound = raw[48 + 520 : 48 + 584].hex()
    result = recorded(*TDX, at="2025-07-01", policy=policy, report_data=bound)
    assert result.exit_code == 0
    assert "could be a copy" not in result.output
    assert "not compared" not in result.output


@needs_fixtures
def test_without_a_policy_nothing_is_accepted() -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    result = recorded(*TDX, at="2025-07-01")
    assert result.exit_code == 86
    assert "sealtune attest policy --kind tdx --from" in result.output
    assert "which the policy does not name" in result.output


@needs_fixtures
def test_policy_from_a_quote_is_strict_and_names_its_code(tmp_path: Path) -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    made = run("policy", "--kind", "tdx", "--from", recorded_file(TDX[0]))
    assert made.exit_code == 0
    assert "copied from the file" in made.stderr
    settings = json.loads(made.stdout)
    assert settings["kinds"]["tdx"]["tcb_statuses"] == ["UpToDate"]
    settings["kinds"]["tdx"]["allow"] = SERVER
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(settings))
    assert recorded(*TDX, at="2025-07-01", policy=path).exit_code == 0
    other = ("go-tdx-guest/quote_v5_sample.dat", "tdx", OUTDATED[2])
    assert recorded(*other, at="2026-03-01", policy=path).exit_code == 81
    assert run("policy", "--kind", "sgx", "--from", recorded_file(TDX[0])).exit_code == 7


# ---- simulated evidence, everywhere -----------------------------------------------------------


def collect(path: Path, nonce: str = NONCE) -> Result:
    return run("collect", "--kind", "simulated", "--nonce", nonce, "--out", path)


def test_collect_policy_verify(tmp_path: Path) -> None:
    evidence, policy = tmp_path / "evidence.bin", tmp_path / "policy.json"
    made = collect(evidence)
    assert made.exit_code == 0
    assert "NOT confidential" in made.stderr
    policy.write_text(run("policy", "--kind", "simulated").stdout)
    words = ["verify", evidence, "--kind", "simulated", "--policy", policy]
    result = run(*words, "--nonce", NONCE)
    assert result.exit_code == 0, result.output
    assert "NO: simulated, its operator can read everything inside" in result.output
    result = run(*words, "--nonce", "cd" * 32)
    assert result.exit_code == 84
    assert run("verify", evidence, "--kind", "tdx").exit_code == 70


def test_evidence_in_text_and_what_only_looks_like_it(tmp_path: Path) -> None:
    evidence, policy = tmp_path / "evidence.bin", tmp_path / "policy.json"
    collect(evidence)
    raw = evidence.read_bytes()
    policy.write_text(run("policy", "--kind", "simulated").stdout)
    words = ["verify", evidence, "--kind", "simulated", "--policy", policy, "--nonce", NONCE]
    for text in (base64.encodebytes(raw), b"0x" + raw.hex().encode(), base64.b64encode(raw)):
        evidence.write_bytes(text)
        assert run(*words).exit_code == 0
    evidence.write_text(json.dumps({"report": "HCLA", "tpm_quote": {"pcrs": []}}))
    for kind in ("sev-snp", "tdx"):
        result = run("verify", evidence, "--kind", kind)
        assert result.exit_code == 70
        assert "REFUSED: this is Azure's vTPM evidence" in result.output


def test_policy_of_sev_snp_from_a_report_asks_for_the_firmware_it_states(tmp_path: Path) -> None:
    key, _ = amd.certificate()
    older = bytes((3, 0, 0, 0, 0, 0, 7, 0x73))
    path = tmp_path / "report"
    path.write_bytes(amd.report(key, version=3, cpuid=b"\x19\x01\x01", launch=older))
    made = run("policy", "--kind", "sev-snp", "--from", path)
    assert made.exit_code == 0
    accepted = json.loads(made.stdout)["kinds"]["sev-snp"]
    assert accepted["measurements"] == [amd.MEASUREMENT.hex()]
    least = {"bootloader": 3, "tee": 0, "snp": 7, "microcode": 115}
    assert accepted["snp"]["min_tcb"] == {"Milan": least}
    path.write_bytes(amd.report(key))
    made = run("policy", "--kind", "sev-snp", "--from", path)
    assert "fill in min_tcb by hand" in made.stderr
    assert json.loads(made.stdout)["kinds"]["sev-snp"]["snp"]["min_tcb"] == {}


def test_json(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence.bin"
    collect(evidence)
    result = run("verify", evidence, "--kind", "simulated", "--nonce", NONCE, "--json")
    assert result.exit_code == 81
    told = json.loads(result.stdout)
    assert told["verdict"] == "refused"
    assert told["exit_code"] == 81
    assert told["error"] == "UnknownMeasurementError"
    assert told["report_data_checked"] is True
    assert told["claims"]["confidential"] is False
    evidence.write_bytes(b"SIM1")
    told = json.loads(run("verify", evidence, "--kind", "simulated", "--json").stdout)
    assert (told["claims"], told["stated"], told["exit_code"]) == (None, {}, 70)


def test_evidence_of_a_command_answers_no_handshake() -> None:
    from sealtune.attest.evidence import DOMAIN, report_data

    nonce = bytes.fromhex(NONCE)
    made = challenge_data(Kind.TDX, nonce)
    assert made != nonce.ljust(64, b"\0")
    assert made != report_data(DOMAIN, "command", nonce=nonce, job_id=b"", public_key=b"")
    assert len(challenge_data(Kind.NVIDIA_GPU, nonce)) == 32


def test_nothing_in_evidence_steers_the_terminal(tmp_path: Path) -> None:
    from sealtune.cli.attest_verdict import _plain

    assert _plain("a\x1b[2Jb\u202ec") == r"a\x1b[2Jb\u202ec"
    assert "2025-07-19" in _plain("CrlExpired { time: UnixTime(1752919235) }")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonce", "ab"], "64 hex digits"),
        (["--nonce", NONCE, "--report-data", "00" * 64], "not both"),
        (["--report-data", "00" * 32], "128 hex digits"),
        (["--at", "yesterday"], "no time"),
        (["--policy", "/none"], "does not exist"),
        (["--collateral", "/none"], "does not exist"),
    ],
)
def test_wrong_arguments(words: list[str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_bytes(SimulatedAttester().collect(bytes(64)).data)
    result = run("verify", path, "--kind", "simulated", *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_policy_with_mistakes_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "e"
    path.write_bytes(b"x")
    policy = tmp_path / "policy.json"
    policy.write_text('{"kinds": {"tdx": {"measurement": "any"}}}')
    result = run("verify", path, "--kind", "tdx", "--policy", policy)
    assert result.exit_code == 2
    assert "kinds.tdx.measurements" in result.stderr


# ---- machines without the hardware ------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sgx", ["/dev/attestation", "gramine-sgx"]),
        ("tdx", ["/dev/tdx_guest", "/sys/kernel/config/tsm/report", "Linux 6.7"]),
        ("sev-snp", ["/dev/sev-guest", "/sys/kernel/config/tsm/report"]),
        ("nvidia-gpu", ["nvidia-ml-py", "/dev/nvidiactl"]),
    ],
)
def test_collect_says_what_is_missing(kind: str, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    result = run("collect", "--kind", kind, "--nonce", NONCE, "--out", out)
    if result.exit_code == 0:
        pytest.skip("this machine has the hardware")
    assert result.exit_code == 88
    for word in words:
        assert word in result.stderr
    assert not out.exists()


def test_collect_with_hardware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command around a machine that can: a fake kernel stands in for it."""
    find = platforms.platform
    monkeypatch.setattr(platforms, "platform", lambda kind: find(kind, tmp_path / "guest"))
    out = tmp_path / "evidence"
    with SoftwareTee(tmp_path / "guest", Kind.TDX) as guest:
        result = run("collect", "--kind", "tdx", "--nonce", NONCE, "--out", out)
    assert result.exit_code == 0, result.output
    bound = challenge_data(Kind.TDX, bytes.fromhex(NONCE))
    assert guest.asked == [bound]
    quote = parse_quote(Evidence.decode(out.read_bytes()).data)
    assert quote.report_data == bound
    assert bound.hex() in result.output
