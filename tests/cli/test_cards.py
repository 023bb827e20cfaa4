"""Cards as parties make them, and a manifest of nothing else; each attack on a card is tried."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sealtune.job.card import CoordinatorCard, ServerCard, SiteCard, read_card
from sealtune.job.dsse import Envelope
from sealtune.job.local_file import load_local
from sealtune.job.manifest import open_manifest
from sealtune.job.network import named_hosts, read_certificate
from sealtune.job.network_keys import is_tls_key, node_key
from tests.cli.ceremony import Parties, ok, refused, rewrite, run, use_folders
from tests.model.tiny import LABELS
from tests.sample_job import write_rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    folder = tmp_path_factory.mktemp("cards")
    with pytest.MonkeyPatch.context() as patch:
        use_folders(patch, folder)
        yield Parties.make(folder / "hosts", "north", "south")


@pytest.fixture
def parties(made: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parties:
    """A copy to spoil."""
    use_folders(monkeypatch, made.folder.parent)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made.folder, tmp_path / "hosts")
    return Parties(tmp_path / "hosts")


@pytest.mark.parametrize(
    "command",
    ["site describe", "server describe", "coordinator describe", "job merge"],
)
def test_each_help_holds_an_example(command: str) -> None:
    assert f"sealtune {command} " in ok(*command.split(), "-h").split("Example", 1)[1]


def test_a_site_describes_itself(parties: Parties) -> None:
    card, home = read_card(parties.card("north")), parties.folder / "north"
    assert isinstance(card, SiteCard)
    assert (card.org, card.site, card.labels) == ("north", "north", tuple(sorted(LABELS)))
    assert (card.data.train_rows, card.data.test_rows) == (30, 12)
    key = home / "north.node.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert node_key(key) == card.node_key
    payload = Envelope.read(parties.card("north")).payload.decode()
    for secret in (str(parties.folder), "hosts", "train.jsonl", "PRIVATE", "local.toml"):
        assert secret not in payload
    local = load_local(parties.local("north"))
    assert local.data is not None
    assert (local.role, local.data.train, local.node_key) == ("site", home / "train.jsonl", key)


def test_a_card_that_is_made_again_keeps_its_keys(parties: Parties) -> None:
    before = read_card(parties.card("north"))
    parties.describe("north", "--note", "nights only")
    after = read_card(parties.card("north"))
    assert isinstance(before, SiteCard)
    assert isinstance(after, SiteCard)
    assert (after.node_key, after.key, after.data) == (before.node_key, before.key, before.data)
    assert after.machine.note == "nights only"
    assert "nights only" in parties.build()


def test_coordinator_and_server_describe_themselves(parties: Parties) -> None:
    hub, server = read_card(parties.card("coordinator")), read_card(parties.card("server"))
    assert isinstance(hub, CoordinatorCard)
    assert isinstance(server, ServerCard)
    assert named_hosts(read_certificate(hub.certificate)) == {"hub.test", "192.0.2.1"}
    assert is_tls_key(parties.hub / "coordinator.tls.key", hub.certificate)
    assert is_tls_key(parties.hub / "server.tls.key", server.server_certificate)
    here = load_local(parties.hub / "coordinator.toml")
    assert (here.listen, here.listen_server) == ("tcp:0.0.0.0:9092", "tcp:192.0.2.1:9093")
    assert load_local(parties.hub / "server.toml").tls_key == parties.hub / "server.tls.key"


def test_addresses_that_are_none(parties: Parties) -> None:
    said = refused("coordinator", "describe", parties.job, "--sites-at", "hub", "--server-at",
                   "hub.test:0", code=2)  # fmt: skip
    assert "--sites-at: should look like" in said
    assert "--server-at: should look like" in said
    same = ("--sites-at", "hub.test:1", "--server-at", "hub.test:1")
    assert "the same address" in refused("coordinator", "describe", parties.job, *same, code=2)


def test_a_manifest_of_cards(parties: Parties) -> None:
    """It says what a manifest says that is built where all data lies."""
    said = parties.build()
    assert "sealtune job merge" in said
    manifest = open_manifest(Envelope.read(parties.manifest))
    assert manifest.network is not None
    assert manifest.network.sites_at == "hub.test:9092"
    assert [one.org for one in manifest.participants] == ["north", "south"]
    table = {
        part: {site: str(parties.folder / site / f"{part}.jsonl") for site in ("north", "south")}
        for part in ("train", "test")
    }
    lines = [f"{part} = {{{', '.join(f'{k} = {json.dumps(v)}' for k, v in files.items())}}}"
             for part, files in table.items()]  # fmt: skip
    text = parties.job.read_text().replace("[data]", "[data]\n" + "\n".join(lines))
    whole = parties.hub / "whole.toml"
    whole.write_text(f"{text}[model]\npath = {json.dumps(str(parties.hub / 'model'))}\n")
    keys = [w for s in ("north", "south") for w in ("--participant", f"{s}={parties.key(s)}")]
    ok("job", "build", whole, "-o", parties.hub / "whole.json", *keys)
    other = open_manifest(Envelope.read(parties.hub / "whole.json"))
    for key in ("settings", "labels", "model", "plan", "code", "data", "participants"):
        assert getattr(manifest, key) == getattr(other, key), key


def test_each_machine_signs_simulated_evidence_with_its_own_key(
    parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_manifest_of(parties).appraisal["site"]["kinds"]["simulated"]["signers"]
    monkeypatch.setenv("XDG_DATA_HOME", str(parties.folder / "elsewhere"))
    parties.describe("north")
    after = open_manifest_of(parties).appraisal["site"]["kinds"]["simulated"]["signers"]
    assert len(before) == 1
    assert len(after) == 2
    assert set(before) < set(after)


def open_manifest_of(parties: Parties) -> Any:
    parties.build()
    return open_manifest(Envelope.read(parties.manifest))


# ---- attacks on cards ----------------------------------------------------------------------------


def test_an_altered_card(parties: Parties) -> None:
    def more_rows(card: dict[str, Any]) -> None:
        card["data"]["train_rows"] = 3000

    rewrite(parties.card("north"), more_rows)
    said = parties.build_refused()
    assert f"{parties.card('north')}: the signature of 'north' is wrong" in said


def test_a_card_under_anothers_key(parties: Parties) -> None:
    """South sends a card in north's name, or puts its key in the place of north's."""
    rewrite(parties.card("north"), lambda card: None, parties.key("south"))
    assert "which is no participant's" in parties.build_refused()
    south = read_card(parties.card("south"))
    rewrite(parties.card("north"), lambda card: card.update(key=south.key), parties.key("south"))
    said = parties.build_refused()
    assert f"{parties.card('south')}: has the same key as {parties.card('north')}" in said


def test_a_card_without_signature(parties: Parties) -> None:
    envelope = json.loads(parties.card("north").read_text())
    parties.card("north").write_text(json.dumps(envelope | {"signatures": []}))
    assert "not signed by north" in parties.build_refused()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expires": "2020-01-02T00:00:00Z", "made": "2020-01-01T00:00:00Z"},
         "expired at 2020-01-02T00:00:00Z"),
        ({"expires": "2990-01-02T00:00:00Z", "made": "2990-01-01T00:00:00Z"}, "one of two clocks"),
        ({"expires": "2990-01-02T00:00:00Z"}, "at most 366 days"),
        ({"settings": "00" * 32}, "was made for a job of other settings"),
        ({"site": "west"}, "is of site west; the job has north, south"),
        ({"evidence": None}, "shows no evidence; the job asks for simulated"),
        ({"evidence": {"kind": "tdx", "policy": None}}, "shows tdx evidence; the job asks for sim"),
        ({"evidence": {"kind": "astrology", "policy": None}}, "evidence.kind"),
        ({"code": {"site-enclave": "00" * 48}}, "has other code of site-enclave"),
        ({"model": {"digest": "00" * 32, "tokenizer_digest": "00" * 32}}, "has another model"),
        ({"extra": 1}, "extra"),
        ({"format": 1}, "format"),
        ({"node_key": "ssh-ed25519 AAAA"}, "node_key"),
    ],
)  # fmt: skip
def test_a_card_that_cannot_be_used(parties: Parties, change: dict[str, Any], words: str) -> None:
    """However well it is signed."""
    rewrite(parties.card("north"), lambda card: card.update(change), parties.key("north"))
    said = parties.build_refused()
    assert str(parties.card("north")) in said
    assert words in said


def test_what_a_card_says_of_evidence_is_held_to_the_same_rules(parties: Parties) -> None:
    def policy(**changes: Any) -> Callable[[dict[str, Any]], None]:
        def change(card: dict[str, Any]) -> None:
            card["evidence"]["policy"]["kinds"]["simulated"].update(changes)

        return change

    rewrite(parties.card("north"), policy(measurements="any"), parties.key("north"))
    assert "evidence of any code at all" in parties.build_refused()
    rewrite(parties.card("north"), policy(measurements=["00" * 48], min_svn=7),
            parties.key("north"))  # fmt: skip
    assert (
        f"another policy of site evidence than {parties.card('north')}" in parties.build_refused()
    )

    def mixed(card: dict[str, Any]) -> None:
        kinds = card["evidence"]["policy"]["kinds"]
        kinds["simulated"]["min_svn"] = 0
        kinds["tdx"] = {"measurements": ["ab" * 48]}

    rewrite(parties.card("north"), mixed, parties.key("north"))
    assert "simulated evidence beside tdx" in parties.build_refused()


def test_a_card_of_another_job(parties: Parties) -> None:
    parties.write_job("north", "south", extra="[train]\nlearning_rate = 0.5\n")
    said = parties.build_refused()
    for name in ("north", "south", "coordinator", "server"):
        assert f"{parties.card(name)}: was made for a job of other settings" in said


def test_two_cards_for_one_site(parties: Parties) -> None:
    shutil.copy(parties.card("north"), parties.card("north-2"))
    said = parties.build_refused()
    assert "site north: has several cards: " in said
    assert f"{parties.card('north')}: has the same node key as {parties.card('north-2')}" in said


def test_a_party_without_a_card(parties: Parties) -> None:
    for name in ("south", "server", "coordinator"):
        parties.card(name).unlink()
    said = parties.build_refused()
    assert said.count("has no card") == 3


def test_all_faults_are_told_together(parties: Parties) -> None:
    parties.card("server").write_text("{}")
    parties.card("coordinator").write_bytes(b"\xff" * 100)
    rewrite(parties.card("north"), lambda card: card.update(settings="00" * 32),
            parties.key("north"))  # fmt: skip
    said = parties.build_refused()
    assert "cards: 5 problems" in said  # two that cannot be read are missing, too
    manifest = parties.hub / "other.json"
    manifest.write_bytes(Envelope("application/vnd.sealtune.job+json", b"{}").encode())
    assert "payloadType" in parties.build_refused(manifest)


def test_an_organisation_of_two_keys(parties: Parties) -> None:
    parties.describe("south", "--org", "north")
    assert "has organisation north as" in parties.build_refused()
    assert "another key" in parties.build_refused()


def test_an_organisation_of_two_sites(parties: Parties) -> None:
    for site in ("north", "south"):
        parties.describe(site, "--key", parties.key("north"), "--org", "clinics")
    manifest = open_manifest_of(parties)
    (participant,) = manifest.participants
    assert (participant.org, participant.sites) == ("clinics", ("north", "south"))


def test_a_job_on_hardware(parties: Parties) -> None:
    """A policy that goes with a card becomes part of the manifest; kinds are named once."""
    protect = "[protection]\nattestation = 'tdx'\n"
    parties.write_job("north", "south", extra=protect)
    policy, other = Path("tdx.json"), Path("sgx.json")
    for file, kind in ((policy, "tdx"), (other, "sgx")):
        file.write_text(json.dumps({"kinds": {kind: {"measurements": ["ab" * 48]}}}))
    for site in ("north", "south"):
        parties.describe(site, "--policy", policy)
    server = ("server", "describe", parties.job, "-o", parties.card("server"))
    said = refused(*server, "--policy", other, code=2)
    assert "this machine cannot show tdx evidence" in said
    assert "accepts sgx; the job asks the server for tdx" in said
    ok(*server)
    ok("coordinator", "describe", parties.job, "--sites-at", "hub.test:9092", "--server-at",
       "192.0.2.1:9093", "-o", parties.card("coordinator"))  # fmt: skip
    assert "the server enclave shows tdx evidence: --policy must" in parties.build_refused(code=2)
    ok(*server, "--policy", policy)
    policy.write_text(json.dumps({"kinds": {"tdx": {"measurements": ["cd" * 48]}}}))
    parties.describe("south", "--policy", policy)
    appraisal = open_manifest_of(parties).appraisal
    assert appraisal["site"]["kinds"]["tdx"]["measurements"] == ["ab" * 48, "cd" * 48]
    assert appraisal["server"]["kinds"]["tdx"]["measurements"] == ["ab" * 48]
    copy = parties.copy("north")
    said = refused("job", "sign", copy, "--local", parties.local("north"), code=2)
    assert "--policy must name its measurements" in said  # what it means to accept itself


OTHER_METHODS = {
    "split": ("rounds = 2", 'rounds = 2\nmethod = "split"', "[split]\ncut = 1\n", ["server"]),
    "secure": (
        "rounds = 2",
        'rounds = 2\ntrust = "secure-aggregation"',
        "[aggregation]\nnorm_bound = 'none'\n",
        [],
    ),
}


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_a_job_of_another_method(parties: Parties, method: str) -> None:
    """Whose sites sign and show no evidence, nor does a server of secure aggregation."""
    old, new, extra, attested = OTHER_METHODS[method]
    names = ("north", "south", "west")
    parties.write_job(*names, extra=extra)
    text = parties.job.read_text().replace(old, new).replace("[tuning]", "[tuning.lora]")
    parties.job.write_text(text)
    parties.add("west", 7)
    for site in names:
        parties.describe(site)
    card = read_card(parties.card("west"))
    assert isinstance(card, SiteCard)
    assert card.evidence is None
    local = parties.hub / "again.toml"
    ok("server", "describe", parties.job, "-o", parties.card("server"), "--local-out", local)
    assert ("# path" in local.read_text()) == (method == "split")
    ok("coordinator", "describe", parties.job, "--sites-at", "hub.test:9092", "--server-at",
       "192.0.2.1:9093", "-o", parties.card("coordinator"))  # fmt: skip
    assert list(open_manifest_of(parties).appraisal) == attested
    parties.sign(*names)
    said = refused("site", "describe", parties.job, "--local", parties.local("west"), "--key",
                   parties.key("west"), "--policy", "p.json", code=2)  # fmt: skip
    assert "the site of such a job shows no evidence" in said


def test_a_job_of_text_alone(parties: Parties) -> None:
    text = parties.job.read_text()
    parties.job.write_text(text + '[model]\ntask = "causal-lm"\n')
    for site in ("north", "south"):
        parties.describe(site)
    ok("server", "describe", parties.job, "-o", parties.card("server"))
    ok("coordinator", "describe", parties.job, "--sites-at", "hub.test:9092", "--server-at",
       "192.0.2.1:9093", "-o", parties.card("coordinator"))  # fmt: skip
    assert open_manifest_of(parties).labels == ()


# ---- labels --------------------------------------------------------------------------------------


def relabel(parties: Parties, site: str, **names: str) -> None:
    """Rename labels in a site's files, and make its card anew."""
    for part in ("train", "test"):
        spell(parties.folder / site / f"{part}.jsonl", names)
    parties.describe(site)


def spell(path: Path, names: Mapping[str, str]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [row | {"label": names.get(row["label"], row["label"])} for row in rows])


def test_a_column_of_names_is_put_into_no_card(parties: Parties) -> None:
    """The job file comes from the coordinator, who would like to read the site's patients."""
    home = parties.folder / "north"
    for name in ("train.jsonl", "test.jsonl"):
        rows = [json.loads(line) for line in (home / name).read_text().splitlines()]
        named = [row | {"patient": f"Jane Doe {number}"} for number, row in enumerate(rows)]
        (home / name).write_text("".join(f"{json.dumps(row)}\n" for row in named))
    parties.job.write_text(parties.job.read_text().replace("[data]", '[data]\nlabel = "patient"'))
    out = home / "stolen.card.json"
    said = refused("site", "describe", parties.job, "--site", "north", "--key",
                   parties.key("north"), "--local", parties.local("north"), "-o", out,
                   code=3)  # fmt: skip
    assert "30 of 30 rows" in said
    assert not out.exists()


def test_what_is_named_is_shown(parties: Parties) -> None:
    said = parties.describe("north")
    assert f"named in the card: {', '.join(sorted(LABELS))}" in said


def test_labels_are_those_of_all_sites(parties: Parties) -> None:
    before = open_manifest_of(parties).data["south"]
    relabel(parties, "north", **dict.fromkeys(LABELS, "newest"))
    manifest = open_manifest_of(parties)
    assert manifest.labels == tuple(sorted({*LABELS, "newest"}))
    assert manifest.data["south"] == before  # whose label numbers are others
    spell(parties.folder / "north" / "test.jsonl", {"newest": "never seen"})
    parties.describe("north")
    parties.manifest.unlink()
    assert (
        "has test rows of label 'never seen', which no site's training" in parties.build_refused()
    )


def test_one_label_in_two_spellings_at_two_sites(parties: Parties) -> None:
    relabel(parties, "north", **{LABELS[0]: LABELS[0].upper()})
    assert "differ only in white space, upper and lower case" in parties.build_refused()


def test_all_rows_of_one_label(parties: Parties) -> None:
    for site in ("north", "south"):
        for part in ("train", "test"):
            write_rows(parties.folder / site / f"{part}.jsonl", [{"text": "a b", "label": "x"}] * 5)
        parties.describe(site)
    assert "at least two classes; all sites together have 'x'" in parties.build_refused()


def test_a_job_file_that_names_all_labels(parties: Parties) -> None:
    """Then cards tell none, which may be what a site has to hide."""
    text = parties.job.read_text()
    named = json.dumps([*LABELS, "rare"])
    parties.job.write_text(text.replace("[data]", f"[data]\nlabels = {named}"))
    for site in ("north", "south"):
        parties.describe(site)
    card = read_card(parties.card("north"))
    assert isinstance(card, SiteCard)
    assert card.labels == ()
    for name in ("server", "coordinator"):
        more = ("--sites-at", "hub.test:9092", "--server-at", "192.0.2.1:9093")
        ok(name, "describe", parties.job, "-o", parties.card(name),
           *(more if name == "coordinator" else ()))  # fmt: skip
    assert open_manifest_of(parties).labels == (*LABELS, "rare")
    rewrite(parties.card("north"), lambda card: card.update(labels=["x"]), parties.key("north"))
    parties.manifest.unlink()
    assert "states labels, which the job does not take from cards" in parties.build_refused()


# ---- job files that go round ---------------------------------------------------------------------


def test_places_that_nobody_named(parties: Parties) -> None:
    words = ("site", "describe", parties.job, "--site", "north", "--key", parties.key("north"))
    said = refused(*words, code=2)
    for key, option in (("model.path", "--model"), ("data.train.north", "--train"),
                        ("data.test.north", "--test")):  # fmt: skip
        assert f"{key}: is nowhere: give" in said
        assert option in said
    said = refused(*words, "--train", "no.jsonl", "--test", "no.jsonl", "--model", "./no", code=2)
    assert said.count("there is no file") == 2
    assert "model.path: there is no folder" in said
    assert "no site 'west'" in refused(*words[:4], "west", *words[5:], code=2)
    said = refused("job", "build", parties.job, "--cards", *parties.cards, code=2)
    assert "model.path: is nowhere: give the folder of the base model here with --model" in said
    assert not list(Path().glob("*.key"))


def test_a_job_file_with_a_pooled_file(parties: Parties) -> None:
    text = parties.job.read_text()
    parties.job.write_text(text.replace("[data]", '[data]\ntrain = "all.csv"\ntest = "all.csv"'))
    said = refused("server", "describe", parties.job, code=2)
    assert "data.train: is one pooled file; across organisations each site has" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [("model = 1", "should be a section"), ("[sites]\nnames = 3", "sites.names"), ("[", "TOML")],
)
def test_a_job_file_with_faults(parties: Parties, text: str, words: str) -> None:
    parties.job.write_text(text)
    assert words in refused("server", "describe", parties.job, code=2)


def test_describe_from_a_local_file(parties: Parties) -> None:
    before = read_card(parties.card("north"))
    words = ("site", "describe", parties.job, "--key", parties.key("north"), "-o", "again.json")
    ok(*words, "--local", parties.local("north"))
    after = read_card(Path("again.json"))
    assert isinstance(before, SiteCard)
    assert isinstance(after, SiteCard)
    assert (before.data, before.node_key) == (after.data, after.node_key)
    said = refused(*words, "--local", parties.hub / "server.toml", code=2)
    assert "role: is 'server', but this is the card of a site" in said
    assert "which of the job's sites is this?" in refused(*words, code=2)


def test_a_local_file_is_never_overwritten(parties: Parties) -> None:
    local = parties.local("north")
    before = local.read_text()
    home = parties.folder / "north"
    result = run("site", "describe", parties.job, "--site", "north", "--key",
                 parties.key("north"), "--train", home / "train.jsonl", "--test",
                 home / "test.jsonl", "--model", home / "model", "--local-out", local)  # fmt: skip
    assert result.exit_code == 9
    assert "may have been changed" in result.stderr
    assert local.read_text() == before


def test_options_that_do_not_go_together(parties: Parties) -> None:
    build = ("job", "build", parties.job)
    assert "no card is given" in refused(*build, "--cards", code=2)
    assert "write --cards before it" in refused(*build, *parties.cards, code=2)
    said = refused(*build, "--cards", *parties.cards, "--participant", "north=n.pub", code=2)
    assert "--participant: follows from the cards" in said
    assert "--model: is for --cards" in refused(*build, "--model", "m", code=2)
