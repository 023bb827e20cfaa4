"""``sealtune keys`` and ``sealtune job`` as participants use them, on a tiny real model."""

from __future__ import annotations

import json
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import rfc8785
from click.testing import Result
from typer.testing import CliRunner

from sealtune.attest.measure import program_digest
from sealtune.attest.platforms.simulated import simulated_policy
from sealtune.cli.main import app
from sealtune.job import proposal
from sealtune.job.dsse import Envelope
from sealtune.job.key_files import load_private
from sealtune.job.load import load_job
from sealtune.job.manifest import PAYLOAD_TYPE, open_manifest, verify_manifest
from tests.attest import intel
from tests.images import made_up
from tests.model.tiny import make_llama
from tests.sample_job import write_texts

JOB = """
[job]
name = "tiny"
rounds = 2
[model]
path = "model"
[data]
train = {north = "north.jsonl", south = "south.jsonl"}
test = {north = "test.jsonl", south = "test.jsonl"}
max_tokens = 24
[sites]
names = ["north", "south"]
[tuning]
rank = 4
"""


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def ok(*words: str | Path) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.stderr or result.output
    return result.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with model, data, keys and an unsigned manifest."""
    folder = tmp_path_factory.mktemp("job")
    make_llama(folder / "model")
    for number, name in enumerate(("north", "south", "test")):
        write_texts(folder / f"{name}.jsonl", 30, number)
    (folder / "job.toml").write_text(JOB)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "data-home"))
        patch.setenv("SEALTUNE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        ok("keys", "new", "north")
        ok("keys", "new", "south")
        ok("job", "build", "job.toml", "-o", "job.manifest.json")
        yield folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, and the working folder."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(folder / "data-home"))
    monkeypatch.setenv("SEALTUNE_CACHE", str(folder / "cache"))
    return folder


def sign_both() -> None:
    for org in ("north", "south"):
        ok("job", "sign", "job.manifest.json", "--key", f"{org}.key")


@pytest.mark.parametrize(
    "command",
    ["keys new", "keys show", "job build", "job sign", "job verify", "job show"],
)
def test_each_help_holds_an_example(command: str) -> None:
    assert f"sealtune {command} " in ok(*command.split(), "-h").split("Example", 1)[1]


def test_keys(folder: Path) -> None:
    assert stat.S_IMODE((folder / "north.key").stat().st_mode) == 0o600
    (shown,) = ok("keys", "show", "north.pub").splitlines()
    assert ok("keys", "show", "north.key").strip() == shown
    assert json.loads(ok("keys", "show", "north.pub", "--json"))["fingerprint"] == shown.replace(
        " ", ""
    )
    result = run("keys", "new", "north")
    assert result.exit_code == 9
    assert "already there" in result.stderr


def test_sign_and_verify(folder: Path) -> None:
    result = run("job", "verify", "job.manifest.json")
    assert result.exit_code == 10
    assert "not signed by north, south" in result.stderr
    assert "not yet by   south" in ok("job", "sign", "job.manifest.json", "--key", "north.key")
    result = run("job", "verify", "job.manifest.json")
    assert (result.exit_code, "not signed by south" in result.stderr) == (10, True)
    said = ok("job", "sign", "job.manifest.json", "--key", "south.key")
    assert "signed by all" in said
    assert "sealtune run JOB.toml --manifest job.manifest.json" in said
    assert "ok  signed by north, south" in ok("job", "verify", "job.manifest.json")
    given = ["--participant", "north=north.pub", "--participant", "south=south.pub"]
    ok("job", "verify", "job.manifest.json", *given)
    said = ok("job", "verify", "job.manifest.json", "--json")
    envelope = Envelope.read(folder / "job.manifest.json")
    assert json.loads(said)["job_id"] in ok("job", "show", "job.manifest.json")
    assert set(verify_manifest(envelope).keys) == {"north", "south"}


def test_verify_compares_with_what_is_here(folder: Path) -> None:
    sign_both()
    said = ok("job", "verify", "job.manifest.json", "--job", "job.toml")
    assert "ok  data.south.train: as the manifest says" in said
    write_texts(folder / "south.jsonl", 30, 9)
    result = run("job", "verify", "job.manifest.json", "--job", "job.toml")
    assert result.exit_code == 10
    assert "these differ: data.south.train\n" in result.stderr
    said = ok("job", "verify", "job.manifest.json", "--job", "job.toml", "--site", "north")
    assert "data.north.train: as the manifest says" in said
    assert "south.train" not in said
    (folder / "south.jsonl").unlink()  # a site need not have the others' files
    ok("job", "verify", "job.manifest.json", "--job", "job.toml", "--site", "north")
    make_llama(folder / "model", seed=5)
    result = run("job", "verify", "job.manifest.json", "--job", "job.toml", "--site", "north")
    assert "these differ: model, slice plan" in result.stderr
    (folder / "job.toml").write_text(JOB.replace("rank = 4", "rank = 5"))
    result = run("job", "verify", "job.manifest.json", "--job", "job.toml", "--site", "north")
    assert (result.exit_code, "these differ: tuning.lora\n" in result.stderr) == (10, True)


def test_a_key_that_somebody_put_in(folder: Path) -> None:
    sign_both()
    ok("keys", "new", "south", "--out", "real")
    words = ("job", "verify", "job.manifest.json", "--participant", "south=real/south.pub")
    result = run(*words)
    assert result.exit_code == 10
    assert "does not name the key in real/south.pub for 'south'" in result.stderr


def test_sign_can_compare_first(folder: Path) -> None:
    words = ("job", "sign", "job.manifest.json", "--key", "north.key", "--job", "job.toml")
    write_texts(folder / "north.jsonl", 30, 9)
    result = run(*words, "--site", "north")
    assert (result.exit_code, "these differ: data.north.train" in result.stderr) == (10, True)
    assert Envelope.read(folder / "job.manifest.json").signatures == ()
    south = ("job", "sign", "job.manifest.json", "--key", "south.key", "--job", "job.toml")
    assert "ok  data.south.train: as the manifest says" in ok(*south, "--site", "south")


def test_only_participants_sign(folder: Path) -> None:
    ok("keys", "new", "east")
    before = (folder / "job.manifest.json").read_bytes()
    result = run("job", "sign", "job.manifest.json", "--key", "east.key")
    assert result.exit_code == 10
    assert "does not name the key in east.key" in result.stderr
    (folder / "north.key").chmod(0o644)
    result = run("job", "sign", "job.manifest.json", "--key", "north.key")
    assert (result.exit_code, "chmod 600" in result.stderr) == (10, True)
    assert (folder / "job.manifest.json").read_bytes() == before


def test_nobody_signs_beside_a_wrong_signature(folder: Path) -> None:
    ok("job", "sign", "job.manifest.json", "--key", "north.key")
    content = json.loads((folder / "job.manifest.json").read_bytes())
    content["signatures"][0]["sig"] = "A" * 86 + "=="
    (folder / "job.manifest.json").write_text(json.dumps(content))
    result = run("job", "sign", "job.manifest.json", "--key", "south.key")
    assert (result.exit_code, "signature of 'north' is wrong" in result.stderr) == (10, True)
    result = run("job", "show", "job.manifest.json")
    assert result.exit_code == 10
    assert "Job 'tiny'" in result.stdout


def test_build_replaces_nothing(folder: Path) -> None:
    before = (folder / "job.manifest.json").read_bytes()
    result = run("job", "build", "job.toml")
    assert result.exit_code == 9
    assert (folder / "job.manifest.json").read_bytes() == before
    said = ok("job", "build", "job.toml", "--force", "--days", "2", "--epoch", "1")
    assert "not yet by   north, south" in said
    manifest = open_manifest(Envelope.read(folder / "job.manifest.json"))
    assert manifest.epoch == 1
    assert (manifest.valid[1] - manifest.valid[0]).days == 2
    assert str(folder).encode() not in Envelope.read(folder / "job.manifest.json").payload


def test_one_organisation_for_two_sites(folder: Path) -> None:
    ok("keys", "new", "clinics")
    ok("job", "build", "job.toml", "-o", "m.json", "--participant",
       "clinics:north,south=clinics.pub")  # fmt: skip
    said = ok("job", "sign", "m.json", "--key", "clinics.key")
    assert "signed by all" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["north"], "should look like"),
        (["=north.pub"], "lower-case"),
        (["north="], "should look like"),
        (["NORTH=north.pub"], "lower-case"),
        (["clinic=north.pub"], "no site clinic, but north, south; write clinic:SITE=north.pub"),
        (["clinic:east=north.pub"], "no site east"),
        (["north=north.pub"], "south: nobody answers for this site"),
        (["north=north.pub", "x:north,south=south.pub"], "north: stands there twice"),
    ],
)
def test_participants_that_do_not_fit(folder: Path, given: list[str], words: str) -> None:
    options = [part for word in given for part in ("--participant", word)]
    result = run("job", "build", "job.toml", "-o", "m.json", *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (folder / "m.json").exists()


def test_the_same_key_twice_and_no_key(folder: Path) -> None:
    same = ["--participant", "north=north.pub", "--participant", "south=north.pub"]
    result = run("job", "build", "job.toml", "-o", "m.json", *same)
    assert (result.exit_code, "same key" in result.stderr) == (10, True)
    (folder / "south.pub").unlink()
    result = run("job", "build", "job.toml", "-o", "m.json")
    assert (result.exit_code, "south.pub cannot be read" in result.stderr) == (10, True)


def test_rules_that_are_not_kept_yet(folder: Path) -> None:
    result = run("job", "build", "job.toml", "-o", "m.json", "--release", "never")
    assert result.exit_code == 10
    assert "cannot be kept yet" in result.stderr


def test_show_says_what_matters(folder: Path) -> None:
    ok("job", "sign", "job.manifest.json", "--key", "north.key")
    said = ok("job", "show", "job.manifest.json")
    for words in (
        "north  signed",
        "south  NOT SIGNED YET",
        ok("keys", "show", "south.pub").strip(),
        "simulated  NOT CONFIDENTIAL",
        "every participant gets the joint adapter",
        "no differential privacy",
        "modules masked on the accelerator",
        "What each party will see",
        "each site’s update, the joint adapter, scores",
    ):
        assert words in said, words
    found = json.loads(ok("job", "show", "job.manifest.json", "--json"))
    assert found["signed_by"] == ["north"]
    assert found["manifest"]["data"]["north"]["train_rows"] == 30


SPLIT = JOB.replace("rounds = 2", 'rounds = 2\nmethod = "split"').replace(
    "[tuning]\nrank = 4", "[tuning.lora]\nrank = 4\n[split]\ncut = 1"
)


@pytest.mark.parametrize("release", ["participants", "never"])
def test_show_of_a_split_job(folder: Path, release: str) -> None:
    (folder / "split.toml").write_text(SPLIT)
    ok("job", "build", "split.toml", "-o", "split.json", "--release", release)
    said = " ".join(ok("job", "show", "split.json").split())
    for words in (
        "cut after block 1 of 2: what comes first runs at the sites, without a TEE",
        "cut activations as bf16, once for each sample, to the server enclave",
        "modules at the data owner",
        "training starts with the samples of at least 2 sites",
        "cut activations and labels; the last 1 block",
        "Data owners’ machines × 2",
    ):
        assert words in said, words
    assert "ccelerator" not in said
    kept = "nobody gets the adapter; the server enclave answers questions"
    assert (kept in said) == (release == "never")
    assert ("released" in said) == (release == "participants")


def test_show_says_that_a_language_models_server_sees_the_text(folder: Path) -> None:
    causal = SPLIT.replace('path = "model"', 'path = "model"\ntask = "causal-lm"')
    (folder / "split.toml").write_text(causal)
    ok("job", "build", "split.toml", "-o", "split.json")
    said = " ".join(ok("job", "show", "split.json").split())
    assert "the server enclave sees the text itself" in said


def code(program: str) -> str:
    return program_digest(program).hex()


def rewrite(folder: Path, **changes: object) -> None:
    """Another manifest in the same file, signed by both."""
    payload = json.loads(Envelope.read(folder / "job.manifest.json").payload) | changes
    envelope = Envelope(PAYLOAD_TYPE, rfc8785.dumps(payload))
    for org in ("north", "south"):
        envelope = proposal.sign(envelope, load_private(folder / f"{org}.key"))
    (folder / "job.manifest.json").write_bytes(envelope.encode())


def test_a_manifest_cannot_steer_the_terminal(folder: Path) -> None:
    model = {"name": "\x1b[2J\u202eevil\n", "digest": "00" * 32, "tokenizer_digest": "00" * 32}
    rewrite(folder, model=model)
    said = ok("job", "show", "job.manifest.json")
    assert r"\x1b[2J\u202eevil\n" in said
    assert not {"\x1b", "\u202e"} & set(said)


def test_a_template_that_is_none_is_refused_before_it_is_signed(folder: Path) -> None:
    settings = json.loads(Envelope.read(folder / "job.manifest.json").payload)["settings"]
    settings["data"]["template"] = "{row.__class__}"
    rewrite(folder, settings=settings)
    for command in (["job", "verify"], ["job", "sign", "--key", "north.key"]):
        result = run(*command, "job.manifest.json")
        assert result.exit_code == 10
        assert "at settings.data.template: has {row.__class__}" in " ".join(result.stderr.split())


def test_an_appraisal_policy_that_is_none(folder: Path) -> None:
    rewrite(folder, appraisal=both({"kinds": {"astrology": {"measurements": "any"}}}))
    for command in (
        ["job", "verify", "job.manifest.json"],
        ["job", "show", "job.manifest.json"],
        ["job", "sign", "job.manifest.json", "--key", "north.key"],
        ["run", "job.toml", "--manifest", "job.manifest.json"],
    ):
        result = run(*command)
        assert result.exit_code == 10
        assert "appraisal.server.kinds.astrology" in result.stderr
    assert not (folder / "runs").exists()


def both(policy: object) -> dict[str, object]:
    """The same accepted of the server's enclave and the sites'."""
    return {"server": policy, "site": policy}


SIMULATED = json.loads(simulated_policy(program_digest("aggregator")).model_dump_json())["kinds"][
    "simulated"
]
TDX = {"measurements": ["ab" * 48]}
OLDEST = {
    "tcb_statuses": ["Unchecked"],
    "min_firmware": {"driver": "550.90.07", "vbios": "96.00.9f.00.01"},
}
POLICIES = [
    ({"simulated": {**SIMULATED, "measurements": "any"}}, "simulated evidence of any code at all"),
    ({"tdx": {"measurements": "any"}}, "tdx evidence of any code at all"),
    (
        {"tdx": TDX, "nvidia-gpu": {"measurements": "any", **OLDEST}},
        "nvidia-gpu evidence of any code at all",
    ),
    ({"simulated": SIMULATED, "tdx": TDX}, "simulated evidence beside tdx"),
    ({}, "no kind of evidence at all"),
    (
        {"simulated": {**SIMULATED, "measurements": ["ab" * 48]}},
        "differ: server.simulated.measurements",
    ),
    ({"simulated": {**SIMULATED, "signers": ["ab" * 32]}}, "differ: server.simulated.signers"),
    (
        {"simulated": {**SIMULATED, "min_svn": 1, "signers": ["ab" * 32]}},
        "differ: server.simulated.signers, server.simulated.min_svn",
    ),
    ({"tdx": TDX}, "attestation is simulated, which is not accepted, but tdx"),
]


@pytest.mark.parametrize(("kinds", "words"), POLICIES)
def test_evidence_that_nobody_here_knows_is_not_signed(
    folder: Path, kinds: dict[str, object], words: str
) -> None:
    rewrite(folder, appraisal=both({"version": 1, "kinds": kinds}))
    for command in (("verify",), ("sign", "--key", "north.key", "--job", "job.toml")):
        result = run("job", command[0], "job.manifest.json", *command[1:])
        assert result.exit_code == 10
        assert words in result.stderr


def test_images_that_were_measured_are_what_a_manifest_accepts(folder: Path) -> None:
    (folder / "tdx.toml").write_text(JOB + "[protection]\nattestation = 'tdx'\n")
    build = ("job", "build", "tdx.toml", "-o", "tdx.json", "--policy", "policy.json")
    (folder / "quote").write_bytes(intel.quote(intel.td_body()))
    for program in ("aggregator", "site-enclave"):
        made_up.image(folder / program, program=program, initrd=program.encode())
        ok("image", "measure", program, "--policy-out", "policy.json")
    result = run(*build)
    assert result.exit_code == 2  # MRTD and RTMR0 are to be filled in
    assert "measurements" in result.stderr
    measured = {}
    for role, program in (("server", "aggregator"), ("site", "site-enclave")):
        words = ("image", "measure", program, "--from", "quote", "--policy-out", "policy.json")
        measured[role] = json.loads(ok(*words, "--json"))["measurement"]
    ok(*build)
    manifest = open_manifest(Envelope.read(folder / "tdx.json"))
    accepted = {
        role: policy["kinds"]["tdx"]["measurements"]  # type: ignore[index,call-overload]
        for role, policy in manifest.appraisal.items()
    }
    assert accepted == {role: [measurement] for role, measurement in measured.items()}
    assert measured["server"] != measured["site"]


def test_evidence_that_was_meant_is_signed(folder: Path) -> None:
    (folder / "tdx.toml").write_text(JOB + "[protection]\nattestation = 'tdx'\n")
    build = ("job", "build", "tdx.toml", "-o", "tdx.json")
    result = run(*build)
    assert result.exit_code == 2
    for role in ("server", "site"):
        assert f"the {role} enclave shows tdx evidence: --policy must name" in result.stderr
    (folder / "policy.json").write_text(json.dumps({"kinds": {"tdx": TDX}}))
    ok(*build, "--policy", "policy.json")
    for org in ("north", "south"):
        sign = ("job", "sign", "tdx.json", "--key", f"{org}.key", "--policy", "policy.json")
        assert "ok  evidence: what is to be accepted" in ok(*sign)
    words = ("job", "verify", "tdx.json", "--policy", "policy.json")
    assert "ok  evidence: what is to be accepted" in ok(*words)
    other = {"kinds": {"tdx": {**TDX, "td_modules": []}}}
    mixed = {"server": {"kinds": {"tdx": TDX}}, "site": other}
    (folder / "policy.json").write_text(json.dumps(mixed))
    assert "these differ: site.tdx.td_modules" in run(*words).stderr
    result = run("run", "tdx.toml", "--manifest", "tdx.json")
    assert result.exit_code == 88
    assert "this machine lacks /dev/tdx_guest" in result.stderr
    assert not (folder / "runs").exists()
    name = load_job(folder / "tdx.toml").job.name
    (folder / "runs" / name).mkdir(parents=True)
    shutil.copy(folder / "tdx.json", folder / "runs" / name / "job.manifest.json")
    result = run("run", "tdx.toml", "--resume")
    assert result.exit_code == 9
    assert "a TDX guest has no sealing key: what the enclave that ended sealed" in result.stderr
    for command in ("plan", "validate"):
        assert "a TDX guest has no sealing key" in ok(command, "tdx.toml")
        assert "sealing key" not in ok(command, "job.toml")


def test_a_tests_root_is_shown_in_red_like_simulated_evidence(folder: Path) -> None:
    (folder / "tdx.toml").write_text(JOB + "[protection]\nattestation = 'tdx'\n")
    policy = {"kinds": {"tdx": {**TDX, "insecure_test_root": "ab" * 32}}}
    (folder / "policy.json").write_text(json.dumps(policy))
    ok("job", "build", "tdx.toml", "-o", "job.manifest.json", "--force", "--policy", "policy.json")
    for org in ("north", "south"):
        ok("job", "sign", "job.manifest.json", "--key", f"{org}.key", "--policy", "policy.json")
    said = ok("job", "show", "job.manifest.json")
    assert f"tdx  NOT CONFIDENTIAL: under an INSECURE TEST ROOT, {'ab' * 32}" in said
    assert "keep nothing from whoever runs their machine" in said
    said = ok("job", "verify", "job.manifest.json", "--policy", "policy.json")
    assert "NOT CONFIDENTIAL: evidence of the server, site protects nothing" in said


def test_the_next_steps_work_as_they_are_printed(folder: Path) -> None:
    """With a policy: each participant's signature takes it too."""
    (folder / "tdx.toml").write_text(JOB + "[protection]\nattestation = 'tdx'\n")
    (folder / "the policy.json").write_text(json.dumps({"kinds": {"tdx": TDX}}))
    said = ok("job", "build", "tdx.toml", "-o", "a tdx.json", "--policy", "the policy.json")
    for _org in ("north", "south"):
        for step in said.splitlines()[-1].removeprefix("→ ").split("; "):
            said = ok(*shlex.split(step)[1:])
    assert "signed by all" in said
    assert "--manifest 'a tdx.json'" in said.splitlines()[-1]


def test_each_role_has_its_own_kind(folder: Path) -> None:
    table = "[protection]\nattestation = {server = 'sgx', site = 'tdx'}\n"
    (folder / "mixed.toml").write_text(JOB + table)
    policies = {"server": {"kinds": {"sgx": TDX}}, "site": {"kinds": {"tdx": TDX}}}
    (folder / "policy.json").write_text(json.dumps(policies))
    ok("job", "build", "mixed.toml", "-o", "mixed.json", "--policy", "policy.json")
    manifest = open_manifest(Envelope.read(folder / "mixed.json"))
    kinds = {role: list(policy["kinds"]) for role, policy in manifest.appraisal.items()}  # type: ignore[call-overload, arg-type]
    assert kinds == {"server": ["sgx"], "site": ["tdx"]}
    said = ok("job", "show", "mixed.json")
    assert "of the server enclave\nsgx" in said
    assert "of the sites’ enclaves\ntdx" in said


@pytest.mark.parametrize("site", ["simulated", "tdx"])
def test_a_forger_of_one_role_is_not_given_what_hardware_protects(folder: Path, site: str) -> None:
    table = f"[protection]\nattestation = {{server = 'sgx', site = '{site}'}}\n"
    (folder / "mixed.toml").write_text(JOB + table)
    policies: dict[str, object] = {"server": {"kinds": {"sgx": TDX}}}
    if site == "tdx":
        policies["site"] = {"kinds": {"tdx": {**TDX, "insecure_test_root": "ab" * 32}}}
    (folder / "policy.json").write_text(json.dumps(policies))
    result = run("job", "build", "mixed.toml", "-o", "mixed.json", "--policy", "policy.json")
    assert result.exit_code == 10
    assert "of the site what anybody can forge" in " ".join(result.stderr.split())
    assert not (folder / "mixed.json").exists()


def test_other_code_is_not_signed(folder: Path) -> None:
    rewrite(folder, code={"aggregator": "00" * 48, "site-enclave": code("site-enclave")})
    for command in (("verify",), ("sign", "--key", "north.key", "--job", "job.toml")):
        result = run("job", command[0], "job.manifest.json", *command[1:])
        assert result.exit_code == 10
        assert (
            "names other code than the sealtune that is installed here: aggregator\n"
            in result.stderr
        )


@pytest.mark.parametrize(("kinds", "words"), POLICIES[:5])
def test_no_job_is_built_or_run_on_evidence_that_proves_nothing(
    folder: Path, kinds: dict[str, object], words: str
) -> None:
    policy = both({"version": 1, "kinds": kinds})
    (folder / "policy.json").write_text(json.dumps(policy))
    result = run("job", "build", "job.toml", "-o", "other.json", "--policy", "policy.json")
    assert (result.exit_code, words in result.stderr) == (10, True)
    assert not (folder / "other.json").exists()
    rewrite(folder, appraisal=policy)
    result = run("run", "job.toml", "--manifest", "job.manifest.json")
    assert (result.exit_code, words in result.stderr) == (10, True)


def test_any_code_is_shown_in_capitals(folder: Path) -> None:
    rewrite(folder, appraisal=both({"version": 1, "kinds": {"tdx": {"measurements": "any"}}}))
    said = ok("job", "show", "job.manifest.json")
    assert "ANY CODE AT ALL" in said
    assert "simulated" not in said.lower()


def test_a_run_starts_from_a_signed_manifest_only(folder: Path) -> None:
    words = ("run", "job.toml", "--manifest", "job.manifest.json")
    assert (run(*words).exit_code, (folder / "runs").exists()) == (10, False)
    sign_both()
    write_texts(folder / "south.jsonl", 30, 9)
    result = run(*words)
    assert (result.exit_code, "these differ: data.south" in result.stderr) == (10, True)
    rewrite(folder, code={"aggregator": "00" * 48, "site-enclave": "00" * 48})
    assert "other code" in run(*words).stderr
    rewrite(folder, expires="2020-01-02T00:00:00Z", not_before="2020-01-01T00:00:00Z")
    result = run(*words)
    assert (result.exit_code, "expired at 2020" in result.stderr) == (10, True)
    assert run("job", "sign", "job.manifest.json", "--key", "north.key").exit_code == 10
    assert not (folder / "runs").exists()


def test_nobody_compares_anothers_data_and_signs(folder: Path) -> None:
    words = ("job", "sign", "job.manifest.json", "--key", "north.key", "--job", "job.toml")
    result = run(*words, "--site", "south")
    assert result.exit_code == 10
    assert "'north', whose key this is, does not answer for site 'south'" in result.stderr
