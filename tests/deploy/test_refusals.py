"""What is refused across hosts, each really tried, on the hosts that a good job would run on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sealtune.demo.consortium import (
    ACCELERATOR,
    COORDINATOR,
    MANIFEST,
    SERVER,
    SERVER_PORT,
    SITES_PORT,
    set_key,
)
from sealtune.demo.hosts import Host
from sealtune.demo.party import SEALTUNE, Party
from sealtune.job.card import open_card, seal_card
from sealtune.job.dsse import Envelope
from sealtune.job.key_files import load_private
from sealtune.job.manifest import canonical
from sealtune.job.proposal import sign
from tests.deploy.setting import SITES, Quick, needs_hosts, start_all

pytestmark = [needs_hosts, pytest.mark.slow, pytest.mark.timeout(900)]
STRANGER = str(Path(__file__).with_name("stranger.py"))
CHARITY, COUNTY, UNIVERSITY = SITES
OTHER = "ab" * 48  # a digest of code that is nowhere


@pytest.fixture(scope="module")
def group(described: Quick) -> Quick:
    described.begin_anew()
    return described


def altered(
    group: Quick, change: Callable[[dict[str, Any]], None], signers: Collection[str] = SITES
) -> bytes:
    """The manifest with a change, signed by all, as if they had not looked."""
    kept = Envelope.read(group.folder(COORDINATOR) / MANIFEST)
    content = json.loads(kept.payload)
    change(content)
    envelope = Envelope(kept.payload_type, canonical(content))
    for site in signers:
        envelope = sign(envelope, load_private(group.folder(site) / f"{site}.key"))
    return envelope.encode()


def nothing(_: dict[str, Any]) -> None:
    pass


def refused(group: Quick, name: str, manifest: bytes | None = None, **keys: str) -> str:
    """Start a party's command with a change to its own file; its words when it has ended."""
    folder = group.folder(name)
    local = folder / "case.toml"
    shutil.copy(folder / f"{name}.toml", local)
    if manifest is not None:
        (folder / "case.json").write_bytes(manifest)
        keys |= {"manifest": "case.json"}
    for key, value in ({"folder": "case"} | keys).items():
        set_key(local, key, value)
    role = "site" if name in SITES else name
    done = group.hosts[name].run([SEALTUNE, role, "--local", str(local)], timeout=250)
    shutil.rmtree(folder / "case", ignore_errors=True)
    assert done.returncode == 10, done.stdout + done.stderr
    assert '"event":"ready"' not in done.stdout
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", [COORDINATOR, SERVER, CHARITY, ACCELERATOR])
def test_a_manifest_that_one_has_not_signed_starts_nobody(group: Quick, name: str) -> None:
    half = altered(group, nothing, signers=[CHARITY, COUNTY])
    assert UNIVERSITY in refused(group, name, half)


def test_a_manifest_that_nobody_has_signed_starts_nobody(group: Quick) -> None:
    assert "signed" in refused(group, SERVER, altered(group, nothing, signers=[]))


def test_a_signature_of_somebody_else_counts_for_nobody(group: Quick) -> None:
    """The coordinator puts a key of its own into a participant's place after the others signed."""
    envelope = Envelope.decode(altered(group, nothing, signers=[CHARITY, COUNTY]))
    group.run(COORDINATOR, "keys", "new", "stranger")
    key = load_private(group.folder(COORDINATOR) / "stranger.key")
    forged = sign(envelope, key).encode()
    assert "key" in refused(group, SERVER, forged)


def test_other_code_than_was_signed(group: Quick) -> None:
    def change(content: dict[str, Any]) -> None:
        content["code"]["aggregator"] = OTHER

    assert "other code" in refused(group, SERVER, altered(group, change))


def test_other_data_than_was_signed(group: Quick) -> None:
    rows = (group.folder(COUNTY) / "train.jsonl").read_text().splitlines(keepends=True)
    (group.folder(COUNTY) / "other.jsonl").write_text("".join([*rows[1:], rows[0]]))
    assert f"data.{COUNTY}" in refused(group, COUNTY, train="other.jsonl")


@pytest.mark.parametrize(
    ("name", "key"), [(UNIVERSITY, "node_key"), (COORDINATOR, "tls_key"), (SERVER, "tls_key")]
)
def test_another_key_for_the_network_than_was_signed(group: Quick, name: str, key: str) -> None:
    other = SERVER if name == COORDINATOR else COORDINATOR
    there = group.folder(name) / "other.key"
    if name == UNIVERSITY:
        shutil.copy(group.folder(CHARITY) / f"{CHARITY}.node.key", there)
    else:
        shutil.copy(group.folder(other) / f"{other}.tls.key", there)
    assert "other.key is not" in refused(group, name, None, **{key: "other.key"})


def test_a_card_of_another_job_is_not_built_into_this_one(group: Quick) -> None:
    """Whoever coordinates shows a card again that its organisation once made."""
    folder = group.folder(COORDINATOR)
    old = open_card(Envelope.read(group.folder(CHARITY) / f"{CHARITY}.card.json"))
    key = load_private(group.folder(CHARITY) / f"{CHARITY}.key")
    for change in (
        {"settings": "0" * 64},
        {"made": "2025-01-01T00:00:00Z", "expires": "2025-02-01T00:00:00Z"},
    ):
        card = seal_card(old.model_copy(update=change), key)
        (folder / "old.card.json").write_bytes(card.encode())
        cards = ["old.card.json", *(f"{s}.card.json" for s in (COUNTY, UNIVERSITY))]
        cards += [f"{SERVER}.card.json", f"{COORDINATOR}.card.json"]
        options = ["--model", "model", "-o", "old.json"]
        with pytest.raises(AssertionError, match=r"old\.card\.json"):
            group.run(COORDINATOR, "job", "build", "job.toml", "--cards", *cards, *options)
        assert not (folder / "old.json").exists()


def run_stranger(host: Host, *arguments: object) -> dict[str, Any]:
    done = host.run([sys.executable, STRANGER, *map(str, arguments)], timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def open_coordinator(group: Quick) -> Iterator[Party]:
    with group.start(COORDINATOR) as party:
        yield party.until_ready()


def test_a_stranger_gets_nothing_from_the_coordinator(
    group: Quick, open_coordinator: Party
) -> None:
    """On the network, without a key of the job: no app, no run, no node, no server's link."""
    address = group.hosts[COORDINATOR].address
    host = group.hosts[ACCELERATOR]
    said = run_stranger(host, "control", address, SITES_PORT, SERVER_PORT)
    assert said["asked"] > 4
    assert set(said["answers"]) <= {"401", "403", "404", "nothing"}, said
    manifest = group.folder(ACCELERATOR) / MANIFEST
    assert "does not know" in run_stranger(host, "node", manifest)["said"]
    assert run_stranger(host, "link", manifest)["bytes"] == 0
    assert open_coordinator.process.poll() is None


def test_nobody_talks_to_an_impostor_at_the_coordinators_address(group: Quick) -> None:
    """Same address, same names, another key: no byte is sent to it by server or site."""
    host = group.hosts[COORDINATOR]
    command = [
        sys.executable,
        STRANGER,
        "impostor",
        host.address,
        str(SITES_PORT),
        str(SERVER_PORT),
    ]
    with ExitStack() as stack:
        impostor = stack.enter_context(Party(host, ["coordinator", "posing"], command=command))
        impostor.until_ready()
        for name in (SERVER, CHARITY):
            stack.enter_context(group.start(name))

        def both(party: Party) -> bool:
            return {event["port"] for event in party.of("caller")} == {SITES_PORT, SERVER_PORT}

        impostor.until(both)
        assert {event["heard"] for event in impostor.of("caller")} == {""}
        assert all(event["trouble"] for event in impostor.of("caller"))
    check = [SEALTUNE, "site", "--local", f"{CHARITY}.toml", "--check", "--json"]
    with Party(host, ["coordinator", "posing"], command=command) as impostor:
        impostor.until_ready()
        done = group.hosts[CHARITY].run(check, timeout=120)
    assert done.returncode != 0
    wrong = [row for row in json.loads(done.stdout)["checks"] if row["what"] == COORDINATOR]
    assert not wrong[0]["ok"], done.stdout


def test_a_server_that_measures_otherwise_gets_nothing(group: Quick) -> None:
    """All have signed that the server's enclave is to measure to something else."""

    def change(content: dict[str, Any]) -> None:
        (kind,) = content["appraisal"]["server"]["kinds"].values()
        kind["measurements"] = [OTHER]

    signed = altered(group, change)
    for host in group.hosts:
        (host.folder / MANIFEST).write_bytes(signed)
        shutil.rmtree(host.folder / host.name, ignore_errors=True)
    with ExitStack() as stack:
        parties = start_all(group, stack)
        failed = parties[SERVER].until(lambda server: bool(server.of("error"))).of("error")[0]
        assert "0 of 3 sites" in failed["message"]
        assert "which the policy does not name" in failed["message"]
        for site in SITES:
            assert not parties[site].of("evaluated")
            assert not parties[site].of("step")


def test_strangers_can_be_told_from_nobody() -> None:
    """The stranger's program runs where there is nobody to talk to, and says so."""
    done = subprocess.run(
        [sys.executable, STRANGER, "control", "127.0.0.1", "1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(json.loads(done.stdout)["answers"]) == {"nobody"}
