"""A coordinator that meddles as much as it can: it learns nothing, changes nothing, starts nothing.

It is in the real one's place, with its keys, on its host.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from sealtune import frames
from sealtune.channel import shared, stream
from sealtune.demo.consortium import COORDINATOR, SERVER, Consortium
from sealtune.demo.party import Party
from tests.deploy import needles
from tests.deploy.setting import (
    SITES,
    Quick,
    end_all,
    events_of,
    losses,
    needs_hosts,
    start_all,
)
from tests.model.tiny import LABELS

pytestmark = [needs_hosts, pytest.mark.slow, pytest.mark.timeout(900)]
HOSTILE = Path(__file__).with_name("hostile_coordinator.py")
HANDSHAKE = {"challenge", "client-hello", "server-hello", "client-key"}


@dataclass
class Meddled:
    """The job when it is done.

    Attributes:
        held: (way, site, bytes) of each message that the coordinator held.
        alone: run folder of the same job on one machine.
    """

    group: Consortium
    parties: dict[str, Party]
    codes: dict[str, int]
    held: list[tuple[str, str, bytes]]
    alone: Path


def start_hostile(group: Consortium, mode: str) -> Party:
    host = group.hosts[COORDINATOR]
    local, held = host.folder / "coordinator.toml", host.folder / "held"
    command = [sys.executable, str(HOSTILE), str(local), str(held), mode, "/tmp"]
    return Party(host, ["coordinator", mode], command=command)


def read_held(path: Path) -> list[tuple[str, str, bytes]]:
    found = []
    with path.open("rb") as file:
        while line := file.readline():
            head = json.loads(line)
            found.append((head["way"], head["site"], file.read(head["bytes"])))
            assert file.read(1) == b"\n"
    return found


@pytest.fixture(scope="module")
def meddled(described: Quick, alone: Path) -> Iterator[Meddled]:
    group = described
    group.begin_anew()
    with ExitStack() as stack:
        hostile = stack.enter_context(start_hostile(group, "meddle"))
        parties = start_all(group, stack, but=[COORDINATOR]) | {COORDINATOR: hostile}
        codes = end_all(parties)
        held = read_held(group.folder(COORDINATOR) / "held")
        yield Meddled(group, parties, codes, held, alone)


def test_the_job_ends_as_if_nothing_had_happened(meddled: Meddled) -> None:
    assert set(meddled.codes.values()) == {0}, meddled.codes
    alone = losses(events_of(meddled.alone / "metrics.jsonl"))
    assert losses(meddled.parties[SERVER].events) == alone
    wanted = (meddled.alone / "adapter" / "adapter_model.safetensors").read_bytes()
    for site in SITES:
        own = meddled.group.folder(site) / site / "sites" / site / "adapter"
        assert (own / "adapter_model.safetensors").read_bytes() == wanted


def test_sites_refuse_others_messages_and_old_ones(meddled: Meddled) -> None:
    tried = [e["message"].split("|") for e in meddled.parties[COORDINATOR].of("log")]
    outcomes = {
        what: [reason for kind, _, reason in filter(lambda t: len(t) == 3, tried) if kind == what]
        for what in ("swapped", "replayed", "doubled")
    }
    assert all(len(reasons) >= len(SITES) for reasons in outcomes.values()), outcomes
    for what, words in (
        ("swapped", "another job, sender or receiver"),
        ("replayed", "replayed"),
    ):
        assert [reason for reason in outcomes[what] if words not in reason] == []
    assert set(outcomes["doubled"]) == {""}  # answered, with the same bytes as before


def test_each_site_answers_twice_with_the_same_bytes_and_trains_once(meddled: Meddled) -> None:
    for site in SITES:
        rounds = [e["round"] for e in meddled.parties[site].of("worked") if e["stage"] == "train"]
        assert rounds == [1, 2, 3]


def test_it_holds_handshakes_and_sealed_messages_only(meddled: Meddled) -> None:
    sealed = 0
    for _, _, body in meddled.held:
        if body.startswith(frames.MAGIC):
            assert frames.decode(body, max_body=1 << 20).kind in HANDSHAKE
        elif body:
            assert body.startswith((stream.MAGIC, shared.MAGIC))
            sealed += 1
    assert sealed > 4 * len(SITES)
    forbidden = dict(needles.of_words(LABELS)) | needles.of_adapter(meddled.alone / "adapter")
    for host in meddled.group.hosts:
        for key in host.folder.glob("*.key"):
            forbidden |= needles.of_key(key)
        if host.name in SITES:
            forbidden |= needles.of_rows(host.folder / "train.jsonl", host.folder / "test.jsonl")
    whole = b"\0".join(body for _, _, body in meddled.held)
    assert needles.found_in(whole, forbidden) == []


def test_its_app_ran_nowhere(meddled: Meddled) -> None:
    for host in meddled.group.hosts:
        left = {path.name for path in (host.folder / ".host" / "tmp").iterdir()}
        assert not left & {"server", "site"}


def test_an_answer_that_it_drops_ends_the_job_without_a_result(described: Quick) -> None:
    """The job needs all three sites; it says which one is missing, and releases nothing."""
    group = described
    group.begin_anew()
    with ExitStack() as stack:
        hostile = stack.enter_context(start_hostile(group, "drop"))
        parties = start_all(group, stack, but=[COORDINATOR]) | {COORDINATOR: hostile}
        parties[SERVER].until(lambda party: bool(party.of("error")))
        (error,) = parties[SERVER].of("error")[:1]
        assert "2 of 3 sites" in error["message"]
        assert not list(group.folder(SERVER).rglob("*.safetensors"))
        for site in SITES:
            assert not list((group.folder(site) / site).rglob("adapter/*"))
