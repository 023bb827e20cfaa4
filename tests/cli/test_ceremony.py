"""A ceremony without a trusted middle: whoever builds, passes round or merges the manifest may lie,
and every organisation finds out before it signs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.cli.job_compare import compare_cards
from sealtune.errors import DigestMismatchError
from sealtune.job.dsse import Envelope
from sealtune.job.key_files import load_private, new_key
from sealtune.job.keys import public_hex
from sealtune.job.manifest import job_id, open_manifest, verify_manifest
from sealtune.job.network_keys import HOST_YEARS, new_certificate, new_node_key
from sealtune.job.proposal import sign
from tests.cli.ceremony import Parties, ok, refused, rewrite, signatures, use_folders
from tests.sample_job import write_texts

SITES = ("north", "south")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parties]:
    folder = tmp_path_factory.mktemp("ceremony")
    with pytest.MonkeyPatch.context() as patch:
        use_folders(patch, folder)
        parties = Parties.make(folder / "hosts", *SITES)
        parties.build()
        yield parties


@pytest.fixture
def parties(made: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parties:
    """A copy to spoil, with a manifest that nobody has signed."""
    use_folders(monkeypatch, made.folder.parent)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made.folder, tmp_path / "hosts")
    return Parties(tmp_path / "hosts")


def test_nobody_needs_anothers_files(parties: Parties) -> None:
    """Each signs with nothing but its own folder and the manifest; all together are enough."""
    away = parties.folder.parent / "away"
    for site, other in (SITES, SITES[::-1]):
        shutil.move(parties.folder / other, away)
        said = ok("job", "sign", parties.copy(site), "--local", parties.local(site),
                  "--card", parties.folder / site / f"{site}.card.json")  # fmt: skip
        shutil.move(away, parties.folder / other)
        for check in ("key", "node key", "model", "slice plan", f"data.{site}", "card.json"):
            assert check in said
    copies = [parties.folder / site / parties.manifest.name for site in SITES]
    for copy, other in zip(copies, SITES[::-1], strict=True):
        assert f"not signed by {other}" in refused("job", "verify", copy)
    assert "signed by all" in ok("job", "merge", *copies, "-o", parties.manifest)
    cards = [word for card in parties.cards for word in ("--card", card)]
    for site in SITES:
        said = ok(*verify(parties, site, "--job", parties.job, *cards))
        assert "settings: as the manifest says" in said
    for role in ("server", "coordinator"):
        local = parties.hub / f"{role}.toml"
        assert "TLS certificate" in ok("job", "verify", parties.manifest, "--local", local)


def verify(parties: Parties, site: str, *more: str | Path) -> list[str | Path]:
    return ["job", "verify", parties.manifest, "--local", parties.local(site), *more]


def test_a_site_joins_with_one_card(parties: Parties) -> None:
    """The others' cards stay as they are; everybody signs anew."""
    parties.sign(*SITES)
    before = {card: card.read_bytes() for card in parties.cards}
    first = job_id(Envelope.read(parties.manifest).payload)
    parties.write_job(*SITES, "west")
    parties.add("west", 7)
    parties.build()
    assert {card: card.read_bytes() for card in before} == before
    for site in SITES:  # an old signature is none of this job
        assert "not signed by north, south, west" in refused(*verify(parties, site))
    parties.sign(*SITES, "west")
    for site in (*SITES, "west"):
        ok(*verify(parties, site))
    envelope = Envelope.read(parties.manifest)
    assert job_id(envelope.payload) != first
    assert sorted(verify_manifest(envelope).data) == ["north", "south", "west"]


def test_where_rows_are_limited_a_site_that_joins_changes_others_shares(parties: Parties) -> None:
    def write(*sites: str) -> None:
        parties.write_job(*sites)
        text = parties.job.read_text().replace("[data]\n", "[data]\nmax_train_rows = 20\n")
        parties.job.write_text(text)

    write(*SITES)
    for site in SITES:
        parties.describe(site)
    write(*SITES, "west")
    parties.add("west", 7)
    parties.manifest.unlink()
    said = parties.build_refused()
    assert f"{parties.card('north')}: was made for a job of other settings" in said
    assert f"{parties.card('west')}: was" not in said


# ---- a coordinator that lies ---------------------------------------------------------------------

Change = Callable[[dict[str, Any]], None]
OTHER_KEY = public_hex(Ed25519PrivateKey.generate().public_key())
OTHER_NODE = new_node_key()[1]
OTHER_CERTIFICATE = new_certificate("other", ("hub.test", "192.0.2.1"), HOST_YEARS)[1]
TDX = {"measurements": ["ab" * 48]}


def put(*path: str | int, to: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        node: Any = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to

    return change


def accept(role: str, **changes: Any) -> Change:
    """Other evidence of ``role``: keys of what is accepted of the simulated kind."""

    def change(content: dict[str, Any]) -> None:
        content["appraisal"][role]["kinds"]["simulated"].update(changes)

    return change


def also_accept(role: str) -> Change:
    """The builder's own development key, beside the others'."""

    def change(content: dict[str, Any]) -> None:
        accepted = content["appraisal"][role]["kinds"]["simulated"]
        accepted["signers"] = sorted([*accepted["signers"], "ab" * 32])

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("participants", 0, "key", to=OTHER_KEY), "does not name the key in"),
        (put("network", "nodes", "north", to=OTHER_NODE), "not the node key that the manifest"),
        (put("data", "north", "train", to="00" * 32), "these differ: data.north.train"),
        (put("data", "north", "train_rows", to=3000), "these differ: data.north.train_rows"),
        (put("model", "digest", to="00" * 32), "these differ: model"),
        (put("settings", "tuning", "lora", "rank", to=5), "these differ: slice plan"),
        (put("code", "site-enclave", to="00" * 48), "names other code than the sealtune"),
        (accept("server", measurements="any"), "simulated evidence of any code at all"),
        (accept("site", measurements=["00" * 48]), "these differ: site.simulated.measurements"),
        (accept("site", min_svn=1), "these differ: site.simulated.min_svn"),
        (put("appraisal", "site", "kinds", "tdx", to=TDX), "simulated evidence beside tdx"),
        (put("appraisal", "server", "kinds", to={"tdx": TDX}),
         "attestation is simulated, which is not accepted, but tdx"),
        (put("appraisal", "site", "kinds", "astrology", to=TDX), "appraisal.site.kinds.astrology"),
        (put("not_before", to="2020-01-01T00:00:00Z"), "at most 366 days"),
        (put("settings", "train", "learning_rate", to=0.9), "north.card.json: settings"),
        (put("settings", "job", "rounds", to=200), "north.card.json: settings"),
    ],
)  # fmt: skip
def test_what_a_site_finds_with_its_own_files(parties: Parties, change: Change, words: str) -> None:
    """And signs nothing."""
    rewrite(parties.manifest, change)
    copy = parties.copy("north")
    before = copy.read_bytes()
    assert words in refused("job", "sign", copy, "--local", parties.local("north"))
    assert copy.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("settings", "train", "learning_rate", to=0.9), "north.card.json: settings"),
        (put("participants", 0, "org", to="northern"), "organisation of north"),
        (put("participants", 1, "key", to=OTHER_KEY), "south.card.json: key of south"),
        (put("network", "nodes", "south", to=OTHER_NODE), "south.card.json: node key of south"),
        (put("data", "south", "test", to="00" * 32), "south.card.json: data of south"),
        (put("data", "south", "train_rows", to=3000), "south.card.json: data of south"),
        (put("model", "tokenizer_digest", to="00" * 32), "model of south"),
        (put("labels", to=["a", "b"]), "labels of south"),
        (put("network", "sites_at", to="hub.test:1"), "coordinator.card.json: network.sites_at"),
        (put("network", "server_at", to="hub.test:2"), "coordinator.card.json: network.server_at"),
        (put("network", "certificate", to=OTHER_CERTIFICATE), "network.certificate"),
        (put("network", "server_certificate", to=OTHER_CERTIFICATE), "network.server_certificate"),
        (put("network", to=None), "node key of south"),
        (put("code", "aggregator", to="00" * 48), "server.card.json: code.aggregator"),
        (accept("site", signers=["ab" * 32]), "south.card.json: appraisal.site"),
        (accept("site", signers="any"), "south.card.json: appraisal.site"),
        (also_accept("site"), "appraisal.site: the development key of no card"),
        (also_accept("server"), "appraisal.server: the development key of no card"),
    ],
)  # fmt: skip
def test_what_is_found_with_cards_that_came_from_their_parties(
    parties: Parties, change: Change, words: str
) -> None:
    rewrite(parties.manifest, change)
    manifest = open_manifest(Envelope.read(parties.manifest))
    with pytest.raises(DigestMismatchError) as caught:
        compare_cards(manifest, parties.cards)
    assert words in caught.value.message


def test_the_builder_puts_its_own_key_in_anothers_place(parties: Parties) -> None:
    """It signs in south's name; north, which knows south's key, is not taken in."""
    private, _ = new_key("other", parties.hub)
    other = public_hex(load_private(private).public_key())
    rewrite(
        parties.manifest, put("participants", 1, "key", to=other), parties.key("north"), private
    )
    ok(*verify(parties, "north"))  # all is signed, and north's own part is right
    known = f"south={parties.folder / 'south' / 'south.pub'}"
    said = refused(*verify(parties, "north", "--participant", known))
    assert "does not name the key in" in said
    assert "key of south" in refused(*verify(parties, "north", "--card", parties.card("south")))
    copy = parties.copy("north")
    said = refused("job", "sign", copy, "--local", parties.local("north"), "--participant", known)
    assert "does not name the key in" in said
    assert "key given for site 'south'" in refused(*verify(parties, "south"))


def test_what_was_not_compared_is_told(parties: Parties) -> None:
    parties.sign(*SITES)
    own, south = (parties.folder / site / f"{site}.card.json" for site in SITES)
    said = ok(*verify(parties, "north"))
    assert f"ok  {own}: as the manifest says" in said  # it lies beside the local file
    assert "not compared: keys of south: --participant ORG=KEY.pub" in said
    for known in (("--card", south), ("--participant", f"south={south.with_name('south.pub')}")):
        assert "not compared" not in ok(*verify(parties, "north", *known))
    own.rename(own.with_name("elsewhere.json"))
    assert "not compared: settings: --job JOB.toml" in ok(*verify(parties, "north"))
    assert "not compared: settings" not in ok(*verify(parties, "north", "--job", parties.job))
    said = json.loads(ok(*verify(parties, "north", "--json")))
    assert len(said["not_compared"]) == 2


def test_the_local_file_of_one_and_the_key_of_another(parties: Parties) -> None:
    key = parties.folder / "south" / "south.key"
    said = refused("job", "sign", parties.manifest, "--local", parties.local("north"), "--key", key)
    assert "'south', whose key this is, does not answer for site 'north'" in said
    assert signatures(parties.manifest) == ()


def test_data_that_changed_since_the_card(parties: Parties) -> None:
    """The card goes on telling what was there; its own site finds out."""
    write_texts(parties.folder / "north" / "train.jsonl", 30, 99)
    parties.build()
    said = refused("job", "sign", parties.copy("north"), "--local", parties.local("north"))
    assert "these differ: data.north.train" in said


def test_other_settings_than_in_the_job_file_that_went_round(parties: Parties) -> None:
    parties.sign(*SITES)
    mine = parties.folder / "north" / "job.toml"
    text = parties.job.read_text()
    mine.write_text(text + "[network]\nmin_sites = 1\n")
    said = refused(*verify(parties, "north", "--job", mine))
    assert "these differ: network.min_sites" in said
    mine.write_text(text.replace("[data]", '[data]\nlabels = ["a", "b"]'))
    said = refused(*verify(parties, "north", "--job", mine))
    assert "other labels than data.labels" in said


def test_a_local_file_that_names_too_little(parties: Parties) -> None:
    parties.sign(*SITES)
    text = parties.local("north").read_text()
    for key in ("key", "node_key", "train"):
        left = [line for line in text.splitlines() if not line.startswith(f"{key} =")]
        parties.local("north").write_text("\n".join(left))
        assert "is missing" in refused(*verify(parties, "north"), code=2)
    parties.local("north").write_text(text.replace("north.node.key", "none.key"))
    assert "none.key cannot be read" in refused(*verify(parties, "north"))
    assert not (parties.folder / "north" / "none.key").exists()
    parties.local("north").write_text(text.replace('"north"', '"west"'))
    assert "is 'west'; the manifest has north, south" in refused(*verify(parties, "north"), code=2)


def test_certificates_of_others(parties: Parties) -> None:
    parties.sign(*SITES)
    for role, key in (("server", "coordinator"), ("coordinator", "server")):
        local = parties.hub / f"{role}.toml"
        local.write_text(local.read_text().replace(f"{role}.tls.key", f"{key}.tls.key"))
        said = refused("job", "verify", parties.manifest, "--local", local)
        assert f"is not that of the {role}'s certificate in the manifest" in said


# ---- signatures ----------------------------------------------------------------------------------


def test_unsigned_and_half_signed(parties: Parties) -> None:
    assert "not signed by north, south" in refused(*verify(parties, "north"))
    parties.sign("south")
    assert "not signed by north" in refused(*verify(parties, "south"))


def test_a_signature_of_another_payload(parties: Parties) -> None:
    parties.sign(*SITES)
    old = signatures(parties.manifest)
    parties.build("--days", "7")
    envelope = Envelope.read(parties.manifest)
    parties.manifest.write_bytes(replace(envelope, signatures=old).encode())
    said = refused(*verify(parties, "north"))
    assert "the signature of 'north' is wrong" in said
    said = refused("job", "sign", parties.manifest, "--local", parties.local("north"))
    assert "is wrong" in said


def merged(parties: Parties, *copies: Path) -> str:
    """A merge that is refused, and leaves what was there."""
    before = parties.manifest.read_bytes()
    said = refused("job", "merge", *copies, "-o", parties.manifest)
    assert parties.manifest.read_bytes() == before
    return said


def test_copies_of_two_jobs_are_not_merged(parties: Parties) -> None:
    ok("job", "sign", parties.copy("north"), "--local", parties.local("north"))
    parties.build("--days", "7")
    ok("job", "sign", parties.copy("south"), "--local", parties.local("south"))
    north, south = (parties.folder / site / parties.manifest.name for site in SITES)
    assert "they are two jobs" in merged(parties, north, south)
    assert "they are two jobs" in merged(parties, north)  # what lies there is another job
    result = refused("job", "merge", north, south, "-o", "new.json")
    assert "they are two jobs" in result
    assert not Path("new.json").exists()


def test_a_stranger_s_or_a_wrong_signature_is_not_merged(parties: Parties) -> None:
    north, south = (parties.copy(site) for site in SITES)
    stranger = Ed25519PrivateKey.generate()
    south.write_bytes(sign(Envelope.read(south), stranger).encode())
    assert "which is no participant's" in merged(parties, north, south)
    ok("job", "sign", north, "--local", parties.local("north"))
    envelope = Envelope.read(north)
    (one,) = envelope.signatures
    south.write_bytes(replace(envelope, signatures=(replace(one, sig=bytes(64)),)).encode())
    assert "the signature of 'north' is wrong" in merged(parties, north, south)
    south.write_bytes(b"{}")
    assert "exactly the keys" in merged(parties, north, south)
    card = parties.card("north")
    assert "not application/vnd.sealtune.job+json" in merged(parties, card)


def test_merging_adds_to_what_lies_there(parties: Parties) -> None:
    for site in SITES:
        ok("job", "sign", parties.copy(site), "--local", parties.local(site))
        copy = parties.folder / site / parties.manifest.name
        ok("job", "merge", copy, "-o", parties.manifest)
    assert len(signatures(parties.manifest)) == 2
    assert "signed by all" in ok("job", "merge", parties.manifest, "-o", parties.manifest)


def test_a_page_to_read_before_signing(parties: Parties) -> None:
    page = parties.folder / "job.html"
    ok("job", "show", parties.manifest, "--html", page)
    assert "Not signed yet by north, south" in page.read_text()
    parties.sign(*SITES)
    envelope = Envelope.read(parties.manifest)
    one, other = envelope.signatures
    wrong = replace(envelope, signatures=(one, replace(other, sig=bytes(64))))
    parties.manifest.write_bytes(wrong.encode())
    refused("job", "show", parties.manifest, "--html", page)
    assert "the signature of &#39;south&#39; is wrong" in page.read_text()
