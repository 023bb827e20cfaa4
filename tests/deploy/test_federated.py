"""A federated job across six hosts: one far away, one cut off for a while in the middle of a round.

It ends, as on one machine to the last bit, and nothing is where it does not belong.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sealtune.demo.consortium import ACCELERATOR, COORDINATOR, MODEL, SERVER, Consortium
from sealtune.demo.party import Party
from tests.deploy import needles
from tests.deploy.needles import Needles, found_in
from tests.deploy.setting import (
    FAR,
    SITES,
    Quick,
    end_all,
    events_of,
    losses,
    needs_hosts,
    start_all,
)
from tests.deploy.wire import streams, talkers
from tests.model.tiny import LABELS

pytestmark = [needs_hosts, pytest.mark.slow, pytest.mark.timeout(900)]
CUT = "university"
AWAY = 4.0  # seconds that it is cut off beyond the moment when all others have answered


@dataclass
class Finished:
    """The job when it is done.

    Attributes:
        alone: run folder of the same job on one machine.
        wire: what was captured at the coordinator.
        while_cut: rounds that the server had finished when the cut link was mended.
    """

    group: Consortium
    parties: dict[str, Party]
    codes: dict[str, int]
    alone: Path
    wire: Path
    while_cut: list[int]

    def folder(self, name: str) -> Path:
        return self.group.folder(name)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, described: Quick, alone: Path
) -> Iterator[Finished]:
    group = described
    group.begin_anew()
    with ExitStack() as stack:
        wire = tmp_path_factory.mktemp("wire") / "coordinator.pcap"
        with group.hosts[COORDINATOR].capture(wire):
            parties = start_all(group, stack)
            while_cut = cut_for_a_while(group, parties)
            codes = end_all(parties)
        yield Finished(group, parties, codes, alone, wire, while_cut)


def cut_for_a_while(group: Consortium, parties: dict[str, Party]) -> list[int]:
    """Cut one site's link while it trains in round 1; rounds done when the link was mended."""
    site, coordinator = parties[CUT], parties[COORDINATOR]
    site.until(lambda party: bool(training(party, 1)))
    group.hosts[CUT].cut()
    answered = {(site, 1) for site in SITES if site != CUT}
    coordinator.until(lambda party: len(transfers(party)) >= len(answered))
    time.sleep(AWAY)
    done = list(losses(parties[SERVER].events))
    group.hosts[CUT].mend()
    return done


def training(party: Party, number: int) -> list[dict[str, Any]]:
    return [e for e in party.of("phase") if (e["round"], e["phase"]) == (number, "train")]


def transfers(party: Party) -> list[str]:
    """Who has answered the last question."""
    last = max(at for at, event in enumerate(party.events) if event["event"] == "exchange")
    return [e["site"] for e in party.events[last:] if e["event"] == "transfer"]


def test_every_command_ends_well(finished: Finished) -> None:
    assert set(finished.codes.values()) == {0}, finished.codes
    for name in SITES:
        assert not finished.parties[name].of("error")


def test_the_round_waited_for_the_site_that_was_cut_off(finished: Finished) -> None:
    assert finished.while_cut == [0]
    rounds = finished.parties[SERVER].of("round")
    assert [event["round"] for event in rounds] == [0, 1, 2, 3]
    for event in rounds:
        assert {site["outcome"] for site in event["sites"].values()} == {"ok"}


def test_losses_are_those_of_one_machine(finished: Finished) -> None:
    """Equal, not close: the sum of updates is exact, and all else is the same arithmetic."""
    alone = losses(events_of(finished.alone / "metrics.jsonl"))
    assert losses(finished.parties[SERVER].events) == alone
    assert list(alone) == [0, 1, 2, 3]
    assert alone[3]["train_loss"] < alone[1]["train_loss"]


def test_the_adapter_is_that_of_one_machine(finished: Finished) -> None:
    wanted = (finished.alone / "adapter" / "adapter_model.safetensors").read_bytes()
    for site in SITES:
        own = finished.folder(site) / site / "sites" / site / "adapter"
        assert (own / "adapter_model.safetensors").read_bytes() == wanted


def secrets_of(finished: Finished) -> dict[str, Needles]:
    """What belongs to one host and to no other: its texts, its private keys."""
    secrets: dict[str, Needles] = {}
    for host in finished.group.hosts:
        keys = [path for path in host.folder.glob("*.key") if path.is_file()]
        own = {what: part for key in keys for what, part in needles.of_key(key).items()}
        if host.name in SITES:
            own |= needles.of_rows(host.folder / "train.jsonl", host.folder / "test.jsonl")
        secrets[host.name] = own
    assert all(secrets[name] for name in (*SITES, SERVER, COORDINATOR))
    return secrets


def files_of(folder: Path) -> dict[str, bytes]:
    """All files of a host but the public model's."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != MODEL
    }


def test_each_host_has_its_own_secrets_and_no_others(finished: Finished) -> None:
    secrets = secrets_of(finished)
    for host in finished.group.hosts:
        files = files_of(host.folder)
        whole = b"\0".join(files.values())
        assert found_in(whole, secrets[host.name]) or host.name == ACCELERATOR  # it can be found
        for other, own in secrets.items():
            if other != host.name:
                assert found_in(whole, own) == [], f"{other}'s on {host.name}"


def test_adapters_are_at_their_owners_only(finished: Finished) -> None:
    tensors = needles.of_adapter(finished.alone / "adapter")
    for name in (COORDINATOR, ACCELERATOR):
        whole = b"\0".join(files_of(finished.folder(name)).values())
        assert found_in(whole, tensors) == []
    whole = b"\0".join(files_of(finished.folder(SITES[0])).values())
    assert set(found_in(whole, tensors)) == set(tensors)


def test_a_process_of_a_host_finds_no_other_hosts_files(finished: Finished) -> None:
    root = finished.group.hosts.root
    for host in finished.group.hosts:
        found = host.run(["ls", str(root)]).stdout.split()
        assert found == [host.name]


def test_the_coordinators_traffic_holds_sealed_bytes_only(finished: Finished) -> None:
    wire = finished.wire.read_bytes()
    ways = streams(finished.wire)
    hosts = finished.group.hosts
    wanted = {hosts[name].address for name in (*SITES, SERVER, COORDINATOR)}
    assert talkers(ways, hosts[COORDINATOR].address) == wanted  # none asks it for the accelerator
    forbidden = dict(needles.of_words(LABELS)) | needles.of_adapter(finished.alone / "adapter")
    for own in secrets_of(finished).values():
        forbidden |= own
    for place in (wire, *ways.values()):
        assert found_in(place, forbidden) == []
    carried = sum(len(said) for said in ways.values())
    sealed = sum(e["bytes"] for e in finished.parties[COORDINATOR].of("exchange"))
    assert carried > sealed > 0  # what was looked through is what was sent


def test_the_far_site_was_far(finished: Finished) -> None:
    """The slow link was in use: nothing went round it."""
    traffic = finished.group.hosts[FAR].traffic()
    assert traffic.sent > 10_000
    assert traffic.received > 10_000
