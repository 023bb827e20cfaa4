"""A round's adapter leaves the server once, over real channels, and no relay can exchange it."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest.platforms.simulated import (
    SimulatedAttester,
    SimulatedVerifier,
    simulated_policy,
)
from sealtune.channel.shared import Messages
from sealtune.errors import SealError
from sealtune.federation.enclave_link import _split
from sealtune.frames import Frame
from sealtune.party.driver import Ask, Driver, Program
from sealtune.party.outcome import new_outcomes
from sealtune.party.relay_link import _answer
from sealtune.party.site_program import SiteProgram
from sealtune.party.trust import SERVER, Trust

SITES = ("north", "south", "west")
ADAPTER = bytes(range(256)) * 1024


class Asking:
    """Asks all sites three times; the first two times they get the same adapter."""

    answer_limit = 1 << 20
    history = None

    def __init__(self, sites: tuple[str, ...]) -> None:
        self.sites = sites
        self.outcomes: list[Any] = []

    def program(self) -> Program:
        sites = self.sites
        for number, bodies in enumerate(
            [dict.fromkeys(sites, ADAPTER)] * 2
            + [{site: ADAPTER + site.encode() for site in sites}]
        ):
            outcomes = new_outcomes(sites)
            self.outcomes.append(outcomes)
            questions = {s: Frame("train", {"round": number, "for": s}, bodies[s]) for s in sites}
            yield Ask(questions, number, lambda site, answer: answer, self._take, outcomes)

    def _take(self, site: str, answer: Frame) -> None:
        assert bytes(answer.body[: len(ADAPTER)]) == ADAPTER
        assert answer.meta == {"for": site}


class Echo:
    """A site's work."""

    def answer(self, question: Frame) -> Frame:
        return Frame("update", {"for": question.meta["for"]}, question.body)


def make(names: tuple[str, ...], server: Any = None) -> tuple[Driver, dict[str, SiteProgram]]:
    key = Ed25519PrivateKey.generate()
    verifier = SimulatedVerifier((key.public_key().public_bytes_raw(),))
    trust = Trust(SimulatedAttester(key), verifier, simulated_policy())
    settings = SimpleNamespace(network=SimpleNamespace(deadline=60.0))
    common = {"job_id": bytes(48).hex(), "settings": settings, "continuity": None}
    silent = lambda event: None  # noqa: E731
    admitted: Any = SimpleNamespace(**common, site="", trust=dict.fromkeys(names, trust))
    sites = {}
    for site in names:
        own: Any = SimpleNamespace(**common, site=site, trust={SERVER: trust})
        sites[site] = SiteProgram(own, Echo(), silent)
    return Driver(server or Asking(names), admitted, silent), sites


@pytest.fixture
def parties() -> tuple[Asking, Driver, dict[str, SiteProgram]]:
    server = Asking(SITES)
    return server, *make(SITES, server)


def exchange(driver: Driver, sites: dict[str, SiteProgram]) -> Messages:
    """Deliver what the server has for the sites; returns it."""
    outgoing = driver.next()
    assert outgoing is not None
    for site, message in outgoing.items():
        driver.reply(site, sites[site].deliver(message))
    return outgoing


def shake_hands(driver: Driver, sites: dict[str, SiteProgram]) -> None:
    exchange(driver, sites)
    exchange(driver, sites)


def test_the_relay_gets_it_once(parties: Any) -> None:
    _, driver, sites = parties
    shake_hands(driver, sites)
    sent = _answer(Frame("next"), driver)
    assert sent.meta["alike"] == list(SITES)
    assert len(ADAPTER) < len(sent.body) < len(ADAPTER) + 3000
    messages = _split(sent).to
    for site, message in messages.items():
        driver.reply(site, sites[site].deliver(message))


def test_it_lies_in_memory_once_however_many_sites_there_are() -> None:
    peaks = []
    for count in (2, 16):
        driver, sites = make(tuple(f"site-{number}" for number in range(count)))
        shake_hands(driver, sites)
        tracemalloc.start()
        sent = _answer(Frame("next"), driver)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(sent.meta["alike"]) == count
    assert peaks[1] < peaks[0] + len(ADAPTER)


def test_every_site_works_on_it_and_alone_where_they_differ(parties: Any) -> None:
    server, driver, sites = parties
    shake_hands(driver, sites)
    for alike in (True, True, False):
        outgoing = exchange(driver, sites)
        assert bool(outgoing.part) is alike
        assert all(len(message) > len(ADAPTER) for message in outgoing.values())
    assert driver.next() is None
    for outcomes in server.outcomes:
        assert {one.outcome for one in outcomes.values()} == {"ok"}
        assert {one.bytes_down > len(ADAPTER) for one in outcomes.values()} == {True}


def test_a_relay_that_exchanges_it_is_refused_and_does_no_harm(parties: Any) -> None:
    _, driver, sites = parties
    shake_hands(driver, sites)
    earlier = exchange(driver, sites).part
    outgoing = driver.next()
    assert outgoing is not None
    site, message = "north", outgoing["north"]
    own = outgoing.own[site]
    altered = message[:-20] + bytes([message[-20] ^ 1]) + message[-19:]
    for exchanged in (altered, own + earlier, message[:-1], message + b"\0"):
        with pytest.raises(SealError):
            sites[site].deliver(exchanged)
    driver.reply(site, sites[site].deliver(message))  # its channel stands
