"""The decision: whatever single thing is not as it was signed, no party is admitted, and nothing is
loaded; whoever signs or starts a run is told the same.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from sealtune.cli.main import app
from sealtune.cli.signing import propose
from sealtune.errors import (
    ConfigError,
    DigestMismatchError,
    MalformedManifestError,
    ManifestExpiredError,
    SealtuneError,
    SignatureMissingError,
    SignatureWrongError,
    UnknownKeyError,
    WeakEvidenceError,
)
from sealtune.job.dsse import Envelope
from sealtune.job.key_files import load_private, new_key
from sealtune.job.keys import public_hex
from sealtune.job.load import load_job
from sealtune.job.local import Local
from sealtune.job.manifest import PAYLOAD_TYPE, Participant, job_id
from sealtune.job.proposal import sign, wrap
from sealtune.launch.parties import MANIFEST, admit_party, line_up
from sealtune.party.admit import AGGREGATOR, admit
from sealtune.plan import holdings
from sealtune.plan.resolve import resolve
from sealtune.plan.roles import COORDINATOR, OWNER_SITE, SITE_ENCLAVE
from tests.model.tiny import make_llama
from tests.sample_job import SITES, write_job, write_texts

SECTIONS: dict[str, dict[str, Any]] = {
    "federated-lora": {"tuning": {"rank": 4}},
    "split": {"job": {"name": "tiny", "method": "split"}, "split": {"cut": 1}},
}


class Signed:
    """A signed job on one machine.

    Attributes:
        folder: with the job's files, the keys, and the manifest in ``run``.
    """

    def __init__(self, folder: Path, method: str) -> None:
        self.folder = folder
        self.method = method

    @property
    def manifest(self) -> Path:
        return self.folder / "run" / MANIFEST

    def party(self, name: str, **changes: Any) -> Local:
        """The file of a site, or of another party by its role."""
        job = load_job(self.folder / "job.toml")
        keys = {site: self.folder / f"{site}.key" for site in SITES}
        parties = line_up(job, self.folder / "run", keys=keys if self.method == "split" else {})
        (found,) = (p for p in parties if name in (p.site, p.site or p.role))
        return found.model_copy(update=changes)

    def payload(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(Envelope.read(self.manifest).payload)
        return content

    def rewrite(self, content: dict[str, Any]) -> None:
        """Another manifest, signed by both."""
        envelope = Envelope(PAYLOAD_TYPE, rfc8785.dumps(content))
        for site in SITES:
            envelope = sign(envelope, load_private(self.folder / f"{site}.key"))
        self.manifest.write_bytes(envelope.encode())


@pytest.fixture(scope="module", params=list(SECTIONS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    folder = tmp_path_factory.mktemp("signed")
    make_llama(folder / "model")
    write_job(folder, "model", data={"max_tokens": 24}, **SECTIONS[request.param])
    keys = {site: load_private(new_key(site, folder)[0]) for site in SITES}
    people = [
        Participant(org=site, key=public_hex(key.public_key()), sites=(site,))
        for site, key in keys.items()
    ]
    resolution = resolve(load_job(folder / "job.toml"))
    envelope = wrap(propose(resolution, people, valid=timedelta(days=3)))
    for key in keys.values():
        envelope = sign(envelope, key)
    (folder / "run").mkdir()
    (folder / "run" / MANIFEST).write_bytes(envelope.encode())
    return Signed(folder, request.param)


@pytest.fixture
def signed(made: Signed, tmp_path: Path) -> Signed:
    """A copy to spoil, in the same place: the job file names it by its folder."""
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    return Signed(copy, made.method)


def test_what_is_as_it_was_signed_is_admitted(signed: Signed) -> None:
    server, site = (admit_party(signed.party(name)) for name in ("server", "north"))
    identity = job_id(Envelope.read(signed.manifest).payload)
    for party in (server, site):
        assert party.job_id == identity
        assert party.plan.digest == party.manifest.plan_digest
        assert party.settings.train == load_job(signed.folder / "job.toml").train
    assert list(server.trust) == list(SITES)
    assert list(site.trust) == ["server"]
    assert (len(server.sealing_key), site.sealing_key) == (32, b"")
    assert len(site.holdings.texts.train) == site.manifest.data["north"].train_rows
    shown = repr(server)
    assert str(server.sealing_key) not in shown
    assert "Trust" not in shown


@pytest.mark.parametrize("template", ["{text", "{a.b}", "no column", "x" * 19_995 + "{text}"])
def test_a_malformed_template_that_all_have_signed(signed: Signed, template: str) -> None:
    content = signed.payload()
    content["settings"]["data"]["template"] = template
    signed.rewrite(content)
    with pytest.raises(MalformedManifestError, match=r"at settings\.data\.template"):
        admit_party(signed.party("north"))


def test_the_aggregator_holds_nothing() -> None:
    assert AGGREGATOR.holds is None
    assert AGGREGATOR.needs == ()


# ---- each single difference ---------------------------------------------------------------------

Spoil = Callable[[Signed], None]


def change(*path: str, to: Any) -> Spoil:
    """A manifest that everybody signed, with another value."""

    def spoil(signed: Signed) -> None:
        content = node = signed.payload()
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to(node[path[-1]]) if callable(to) else to
        signed.rewrite(content)

    return spoil


def other_code(signed: Signed) -> None:
    content = signed.payload()
    signed.rewrite(content | {"code": dict.fromkeys(content["code"], "00" * 48)})


def any_code(signed: Signed) -> None:
    content = signed.payload()
    for policy in content["appraisal"].values():
        policy["kinds"]["simulated"]["measurements"] = "any"
    signed.rewrite(content)


def expired(signed: Signed) -> None:
    dates = {"not_before": "2020-01-01T00:00:00Z", "expires": "2020-01-02T00:00:00Z"}
    signed.rewrite(signed.payload() | dates)


def one_signature(signed: Signed) -> None:
    envelope = Envelope.read(signed.manifest)
    short = dataclasses.replace(envelope, signatures=envelope.signatures[:1])
    signed.manifest.write_bytes(short.encode())


def swapped_signatures(signed: Signed) -> None:
    envelope = Envelope.read(signed.manifest)
    one, other = envelope.signatures
    swapped = (dataclasses.replace(one, sig=other.sig), dataclasses.replace(other, sig=one.sig))
    signed.manifest.write_bytes(dataclasses.replace(envelope, signatures=swapped).encode())


def stranger(signed: Signed) -> None:
    """In the manifest stands, and signed, somebody else's key for south."""
    content = signed.payload()
    key = Ed25519PrivateKey.generate()
    content["participants"][1]["key"] = public_hex(key.public_key())
    envelope = Envelope(PAYLOAD_TYPE, rfc8785.dumps(content))
    for one in (load_private(signed.folder / "north.key"), key):
        envelope = sign(envelope, one)
    signed.manifest.write_bytes(envelope.encode())


def other_model(signed: Signed) -> None:
    make_llama(signed.folder / "model", seed=9)


def other_tokenizer(signed: Signed) -> None:
    path = signed.folder / "model" / "tokenizer_config.json"
    path.write_text(path.read_text().replace("{", '{"mark": 1, ', 1))


def other_data(signed: Signed) -> None:
    write_texts(signed.folder / "train.jsonl", 60, 9)


def settings(signed: Signed) -> None:
    """The settings of another job: what was planned does not follow from them."""
    where = ("tuning", "lora", "rank")
    change("settings", *where, to=5)(signed)


HERE = "what lies here is not what was signed; these differ: "
CODE = "the manifest names other code than the sealtune that is installed here: "
DIFFERENCES: dict[str, tuple[Spoil, type[SealtuneError], str]] = {
    "signature missing": (one_signature, SignatureMissingError, "not signed by south"),
    "signature wrong": (swapped_signatures, SignatureWrongError, "is wrong"),
    "expiry": (expired, ManifestExpiredError, "expired at 2020-01-02"),
    "release": (change("release", to="quorum"), SealtuneError, "cannot be kept yet"),
    "code": (other_code, DigestMismatchError, CODE),
    "evidence": (any_code, WeakEvidenceError, "simulated evidence of any code at all"),
    "kind of evidence": (
        change("settings", "protection", "attestation", to="tdx"),
        MalformedManifestError,
        "protection.attestation is tdx, which is not accepted, but simulated",
    ),
    "model": (other_model, DigestMismatchError, f"{HERE}model"),
    "tokenizer": (other_tokenizer, DigestMismatchError, f"{HERE}model, tokenizer"),
    "plan": (settings, DigestMismatchError, f"{HERE}slice plan"),
    "labels": (
        change("labels", to=lambda names: [*names, "one more"]),
        DigestMismatchError,
        f"{HERE}slice plan",
    ),
    "data": (other_data, DigestMismatchError, f"{HERE}data.south.train"),
}


@pytest.mark.parametrize("what", list(DIFFERENCES))
def test_each_difference_is_refused_before_anything_is_started(
    signed: Signed, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    spoil, kind, words = DIFFERENCES[what]
    spoil(signed)
    if what not in ("model", "tokenizer", "plan", "labels", "data"):
        monkeypatch.setattr(holdings, "model_files", None)  # nothing is read before it is refused
    with pytest.raises(kind) as caught:
        admit_party(signed.party("south"))
    assert words in caught.value.message


@pytest.mark.parametrize("what", list(DIFFERENCES))
def test_commands_say_the_same(signed: Signed, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    spoil, _, words = DIFFERENCES[what]
    spoil(signed)
    monkeypatch.chdir(signed.folder)
    told = {"plan": "tuning.lora", "labels": "labels", "data": "data.north.train"}
    if what in told:  # whoever has the job file and all data sees it there
        words = HERE + told[what]
    keys = [w for s in SITES for w in ("--key", f"{s}.key")] if signed.method == "split" else []
    for command in (
        ("job", "verify", f"run/{MANIFEST}", "--job", "job.toml"),
        ("run", "job.toml", "--manifest", f"run/{MANIFEST}", *keys),
        ("site", "--local", "south.json", "--check"),
    ):
        if command[0] == "site":
            Path("south.json").write_text(signed.party("south").model_dump_json())
            words = DIFFERENCES[what][2]
        result = CliRunner().invoke(app, list(command), env={"COLUMNS": "900"})
        if command[0] == "site":  # tells of all that is in the way at once
            assert result.exit_code != 0
            assert words in " ".join(result.stdout.split()), command
            continue
        assert result.exit_code == 10, (command, result.output, result.stderr)
        assert words in " ".join(result.stderr.split()), command
    assert not (signed.folder / "runs").exists()


def test_settings_of_another_job_file(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A party has no settings of its own; whoever brings a job file is told each key."""
    monkeypatch.chdir(signed.folder)
    text = Path("job.toml").read_text()
    Path("job.toml").write_text(text + "[train]\nlearning_rate = 0.5\n")
    for command in (
        ("job", "verify", f"run/{MANIFEST}", "--job"),
        ("run", "--manifest", f"run/{MANIFEST}"),
    ):
        result = CliRunner().invoke(app, [*command, "job.toml"], env={"COLUMNS": "500"})
        assert result.exit_code == 10
        assert f"{HERE}train.learning_rate\n" in result.stderr


# ---- who --------------------------------------------------------------------------------------


def test_a_key_that_the_manifest_does_not_name(signed: Signed) -> None:
    """Also where the site does not sign with it: a party that has the wrong key is another one."""
    stranger(signed)
    party = signed.party("south", key=signed.folder / "south.key")
    with pytest.raises(UnknownKeyError, match="not the one of 'south' in the manifest"):
        admit_party(party)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"site": "west"}, "there is no site 'west'; the job has north, south"),
        ({"data": None}, "data: is missing"),
        ({"model": None}, "model: is missing"),
        ({"role": "server"}, "role: is 'server', but this program is the site"),
    ],
)
def test_a_party_that_does_not_fit(signed: Signed, changes: dict[str, Any], words: str) -> None:
    role = OWNER_SITE if signed.method == "split" else SITE_ENCLAVE
    with pytest.raises(ConfigError, match=words):
        admit(signed.party("north", **changes), role)


def test_who_may_ask_a_server_that_answers_nobody(signed: Signed) -> None:
    """It would start the whole job anew instead, over the checkpoint that is there."""
    asked = signed.party("server", serve="north")
    if signed.method == "split":
        assert admit_party(asked).local.serve == "north"
    else:
        with pytest.raises(ConfigError, match="serve: the server of a federated-lora job answers"):
            admit_party(asked)


def test_a_server_goes_on_from_whatever_it_sealed(signed: Signed) -> None:
    server = signed.party("server", resume="auto")
    assert not admit_party(server).resumes
    (server.folder / "state").mkdir()
    assert not admit_party(server).resumes
    (server.folder / "state" / "checkpoint.sealed").touch()
    assert admit_party(server).resumes
    assert not admit_party(signed.party("server")).resumes


def test_a_coordinator_is_believed_nothing_and_given_nothing(signed: Signed) -> None:
    party = Local(
        role="coordinator",
        manifest=signed.manifest,
        folder=signed.folder / "coordinator",
        listen="tcp:127.0.0.1:9092",
        listen_server="tcp:127.0.0.1:9093",
        tls_key=signed.folder / "tls.key",
    )
    admitted = admit(party, COORDINATOR)
    assert (admitted.trust, admitted.holdings, admitted.sealing_key) == ({}, None, b"")
    with pytest.raises(ConfigError, match="listen_server: is missing: the coordinator needs it"):
        admit(party.model_copy(update={"listen_server": ""}), COORDINATOR)
    one_signature(signed)
    with pytest.raises(SignatureMissingError):
        admit(party, COORDINATOR)


def test_a_program_of_the_other_method(signed: Signed) -> None:
    role = SITE_ENCLAVE if signed.method == "split" else OWNER_SITE
    with pytest.raises(ConfigError, match=f"job, which has no {role.program}"):
        admit(signed.party("north"), role)


def test_a_split_site_needs_its_key(signed: Signed) -> None:
    if signed.method == "split":
        with pytest.raises(ConfigError, match="key: is missing: the owner-site needs it"):
            admit_party(signed.party("north", key=None))
    else:
        with pytest.raises(ConfigError, match="accelerator: is missing"):
            admit_party(signed.party("north", accelerator=""))
