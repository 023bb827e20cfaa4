"""Relays that are killed or hostile, sites started anew: equal results, or a refusal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sealtune import frames
from sealtune.channel.client import is_challenge
from sealtune.channel.sealed import NO_CHANNEL
from sealtune.errors import FrameError, SealtuneError, SiteLostError
from sealtune.party.driver import Driver
from tests.enclave.flow import SITES, Federation, make_federation, make_job, make_spare_job
from tests.enclave.sum_flow import make_sum, make_sum_job
from tests.enclave.test_federation import ROUND_1, adapter_file, whole_run

STEPS = 6  # of training, at each site


@pytest.fixture(scope="module")
def undisturbed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    federation = whole_run(make_job(folder, llama), folder / "run")
    return adapter_file(federation, "south").read_bytes()


def drive_killed(federation: Federation, server: Driver) -> None:
    """The relay is killed after each single thing that it does, and a new one knows nothing."""
    while (sent := server.next()) is not None:
        outgoing = dict(sent)
        for site in reversed(list(sent)):
            assert server.next() == outgoing  # killed with everything that it was given
            federation.sites[site].deliver(outgoing[site])
            again = server.next() or {}
            assert again == outgoing  # killed before it had the answer
            answer = federation.sites[site].deliver(again[site])
            assert server.next() == outgoing  # killed before it reported the answer
            server.reply(site, answer)
            del outgoing[site]
            if outgoing:
                assert server.next() == outgoing  # killed before it heard that the report is taken


def test_a_relay_that_is_killed_at_every_point_changes_nothing(
    llama: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")
    drive_killed(federation, federation.aggregator())
    assert adapter_file(federation, "south").read_bytes() == undisturbed
    for site in SITES:
        assert len(federation.of("step", f"client:{site}")) == STEPS  # nothing was trained twice
        assert [e["who"] for e in federation.of("attested", "server")].count(site) == 1


def test_neither_does_it_under_secure_aggregation(llama: Path, tmp_path: Path) -> None:
    job = make_sum_job(tmp_path, llama)
    straight = make_sum(job, tmp_path / "straight")
    straight.run(straight.server())
    killed = make_sum(job, tmp_path / "killed")
    drive_killed(killed, killed.server())
    north = "north"
    assert adapter_file(killed, north).read_bytes() == adapter_file(straight, north).read_bytes()


def test_a_hostile_relay_gains_nothing_but_delay(
    llama: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    """It repeats, duplicates, reorders, replays what is older, and poses as a restarted site."""
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")
    server, old = federation.aggregator(), list[tuple[str, bytes]]()
    forged = 0
    while (outgoing := server.next()) is not None:
        for site in reversed(list(outgoing)):
            sealed = not outgoing[site].startswith(frames.MAGIC)
            for other, message in old[-6:]:  # also to whom they were not meant for
                for receiver in (site, other) if sealed else ():  # a handshake it could prevent
                    with contextlib.suppress(SealtuneError):
                        federation.sites[receiver].deliver(message)
            answer = federation.sites[site].deliver(outgoing[site])
            for other, message in old if sealed else ():  # steps of a handshake that is over
                if other == site and message[:4] == frames.MAGIC and not is_challenge(message):
                    with contextlib.suppress(SealtuneError):
                        federation.sites[site].deliver(message)
            assert federation.sites[site].deliver(outgoing[site]) == answer
            if len(old) % 5 == 4:
                server.reply(site, NO_CHANNEL)
                forged += 1
            else:
                server.reply(site, answer)
            with pytest.raises(FrameError, match="nothing was asked"):
                server.reply(site, answer)
            with pytest.raises(FrameError, match="nothing was asked"):
                server.absent(site, "")
            old.append((site, outgoing[site]))
    assert forged > 1
    assert adapter_file(federation, "south").read_bytes() == undisturbed


def test_an_answer_in_another_sites_name_is_not_taken(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_spare_job(tmp_path, llama), tmp_path / "run")
    answers: dict[str, bytes] = {}

    def swapped(site: str, way: str, number: int, body: bytes) -> bytes:
        if way == "up" and number == ROUND_1:
            answers[site] = body
            return answers["west"] if site == "south" else body  # the last one answers first
        return body

    federation.run(federation.aggregator(), network=swapped)
    entry = federation.of("round")[1]["sites"]["south"]
    assert (entry["outcome"], "refused" in entry["reason"]) == ("failed", True)


@pytest.mark.parametrize("exchange", range(6))
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_site_that_is_started_anew_is_asked_again(
    llama: Path, tmp_path: Path, undisturbed: bytes, exchange: int, when: str
) -> None:
    """At every point: before it has a message, and after it worked but before its answer is out."""
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")
    message = b""

    def restarts(site: str, way: str, number: int, body: bytes) -> bytes:
        nonlocal message
        if (site, number) != ("south", exchange):
            return body
        if way == "down":
            message = body
            if when == "before":
                federation.start_site(site)
        elif when == "after":
            federation.start_site(site)
            return federation.sites[site].deliver(message)  # by its node, which waited for it
        return body

    federation.run(federation.aggregator(), network=restarts)
    assert adapter_file(federation, "south").read_bytes() == undisturbed
    assert adapter_file(federation, "north").read_bytes() == undisturbed
    assert all(e["sites"]["south"]["outcome"] == "ok" for e in federation.of("round"))
    assert len(federation.of("step", "client:north")) == STEPS


def test_a_site_that_keeps_being_started_anew_ends_the_job(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(make_job(tmp_path, llama), tmp_path / "run")

    def restarts(site: str, way: str, number: int, body: bytes) -> bytes:
        if (site, way) == ("south", "down") and number >= ROUND_1:
            federation.start_site(site)
        return body

    with pytest.raises(SiteLostError, match="south: it was started anew more than 3 times"):
        federation.run(federation.aggregator(), network=restarts)
