"""The round driver with channels that seal nothing: what a program asks, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sealtune import frames
from sealtune.channel.sealed import NO_CHANNEL
from sealtune.errors import ChannelError, FrameError, SealError, StorageError
from sealtune.frames import Frame
from sealtune.party import driver as module
from sealtune.party.driver import Ask, Driver, Program
from sealtune.party.outcome import SiteOutcome, new_outcomes

SITES = ("north", "south")
HELLO = b"hello"
LATE = "no answer before the deadline"


class PlainLink:
    """A channel that is open after one message each way."""

    def __init__(self, site: str, *_: Any) -> None:
        self.open = False

    def drop(self) -> None:
        self.open = False

    def handshake_message(self) -> bytes:
        return HELLO

    def on_handshake_reply(self, body: bytes) -> None:
        if body != HELLO:
            raise ChannelError("who is there?")
        self.open = True

    def seal(self, frame: Frame, round: int, part: bytes) -> bytes:
        return frames.encode(frame)

    def unseal(self, body: bytes, round: int) -> bytes:
        if body == b"altered":
            raise SealError("altered")
        return body

    def check_refusal(self, answer: Frame) -> None:
        """Every site follows."""


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SiteLink", PlainLink)


class Server:
    """Asks everybody for a number, and keeps what it takes."""

    answer_limit = 100
    history = None

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.outcomes: list[dict[str, SiteOutcome]] = []
        self.taken: list[tuple[str, int]] = []
        self.answered: list[list[str]] = []

    def check(self, _site: str, answer: Frame) -> int:
        return 100 // int(answer.kind)

    def take(self, site: str, number: int) -> None:
        self.taken.append((site, number))

    def ask(self, **options: Any) -> Program:
        outcomes = new_outcomes(SITES)
        self.outcomes.append(outcomes)
        question = Frame("number?")
        answered = yield Ask(
            dict.fromkeys(SITES, question), 1, self.check, self.take, outcomes,
            **self.options | options,
        )  # fmt: skip
        self.answered.append(answered)

    def program(self) -> Program:
        yield from self.ask()
        yield None
        yield from self.ask()


def drive(server: Server) -> Driver:
    resolved: Any = SimpleNamespace(
        job_id="00" * 48,
        settings=SimpleNamespace(network=SimpleNamespace(deadline=9.0)),
        trust=dict.fromkeys(SITES),
    )
    return Driver(server, resolved, print)  # type: ignore[arg-type]


def hello(driver: Driver) -> None:
    assert driver.next() == dict.fromkeys(SITES, HELLO)
    for site in SITES:
        driver.reply(site, HELLO)


def number(text: str) -> bytes:
    return frames.encode(Frame(text))


def test_a_program_from_its_start_to_its_end() -> None:
    server = Server()
    driver = drive(server)
    hello(driver)
    question = driver.next() or {}
    assert set(question) == set(SITES)
    driver.reply("south", number("5"))
    assert server.taken == [("south", 20)]  # at once, not when all have answered
    driver.reply("north", number("50"))
    assert driver.next() == {}  # the program works on its own
    assert server.answered == [["south", "north"]]
    assert set(driver.next() or {}) == set(SITES)  # the channels still stand
    for site in SITES:
        driver.reply(site, number("1"))
    assert driver.next() is None
    line = server.outcomes[0]["north"]
    sizes = len(HELLO) + len(number("50")), len(HELLO) + len(question["north"])
    assert (line.outcome, line.bytes_up, line.bytes_down) == ("ok", *sizes)


@pytest.mark.parametrize(
    ("body", "reason", "rejected"),
    [
        (number("0"), "refused: unforeseen ZeroDivisionError", True),
        (number("x"), "refused: unforeseen ValueError", True),
        (b"altered", "refused: altered", False),
        (b"short", "frame header", True),
    ],
)
def test_a_refused_answer_is_not_taken_and_fails_its_site_alone(
    body: bytes, reason: str, rejected: bool
) -> None:
    server = Server()
    driver = drive(server)
    hello(driver)
    driver.next()
    driver.reply("south", body)
    driver.reply("north", number("1"))
    driver.next()
    assert server.taken == [("north", 100)]
    assert server.answered == [["north"]]
    line = server.outcomes[0]["south"]
    assert (line.outcome, line.rejected) == ("failed", rejected)
    assert reason in line.reason
    assert driver.next() == {"south": HELLO}  # its channel is gone, and it gets another chance


def test_what_cannot_be_taken_in_ends_the_job() -> None:
    class Full(Server):
        def take(self, _site: str, _number: int) -> None:
            raise StorageError("no space left")

    driver = drive(Full())
    hello(driver)
    driver.next()
    with pytest.raises(StorageError, match="no space"):
        driver.reply("north", number("1"))


def lose(driver: Driver, times: int) -> None:
    """South loses so many messages in a row: questions, then handshakes."""
    for _ in range(times):
        assert "south" in (driver.next() or {})
        driver.absent("south", LATE)


@pytest.mark.parametrize("patience", [1, 3])
def test_patience(patience: int) -> None:
    server = Server(patience=patience)
    driver = drive(server)
    hello(driver)
    driver.next()
    driver.reply("north", number("1"))
    driver.absent("south", LATE)
    lose(driver, patience - 1)
    assert driver.next() == {}
    assert server.answered == [["north"]]
    assert server.outcomes[0]["south"].outcome == "late"


def test_a_site_that_is_back_in_time_is_asked_the_same_again() -> None:
    server = Server(patience=3)
    driver = drive(server)
    hello(driver)
    first = driver.next() or {}
    driver.reply("north", number("1"))
    driver.absent("south", LATE)
    lose(driver, 1)
    assert driver.next() == {"south": HELLO}
    driver.reply("south", HELLO)
    assert driver.next() == {"south": first["south"]}
    driver.reply("south", number("1"))
    assert driver.next() == {}
    assert server.answered == [["north", "south"]]


def test_anew() -> None:
    class Anew(Server):
        def program(self) -> Program:
            yield from self.ask()
            yield from self.ask(anew=True)

    driver = drive(Anew())
    hello(driver)
    driver.next()
    for site in SITES:
        driver.reply(site, number("1"))
    hello(driver)


def test_a_relay_that_lost_everything_gets_the_same_bytes_for_whom_it_has_not_answered() -> None:
    server = Server()
    driver = drive(server)
    hello(driver)
    first = driver.next() or {}
    assert driver.next() == first
    driver.reply("north", number("1"))
    assert driver.next() == {"south": first["south"]}
    driver.reply("south", number("2"))
    assert driver.next() == {}
    assert server.taken == [("north", 100), ("south", 50)]
    sizes = len(HELLO) + len(first["north"])  # a message counts once
    assert server.outcomes[0]["north"].bytes_down == sizes


def test_messages_are_not_handed_out_for_ever() -> None:
    server = Server()
    driver = drive(server)
    hello(driver)
    for _ in range(module._REPEATS + 1):
        assert set(driver.next() or {}) == set(SITES)
    assert driver.next() == {}
    assert server.outcomes[0]["south"].reason == "no outcome was reported"
    assert server.answered == [[]]


def test_a_new_relay_is_told_how_much_of_the_deadline_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    driver = drive(Server())
    hello(driver)
    driver.next()
    assert driver.left == driver.deadline == 9
    clock[0] += 6
    driver.next()
    assert driver.left == 3
    clock[0] += 60
    assert driver.left == 1  # for answers that came in time


def test_a_site_that_was_started_anew_is_asked_again_within_its_stage() -> None:
    server = Server()
    driver = drive(server)
    hello(driver)
    first = driver.next() or {}
    driver.reply("south", NO_CHANNEL)
    driver.reply("north", number("1"))
    assert driver.next() == {"south": HELLO}
    driver.reply("south", NO_CHANNEL)  # once more, in the middle of the handshake
    assert driver.next() == {"south": HELLO}
    driver.reply("south", HELLO)
    assert driver.next() == {"south": first["south"]}
    driver.reply("south", number("2"))
    assert driver.next() == {}
    assert server.answered == [["north", "south"]]


def test_a_site_is_not_asked_again_for_ever() -> None:
    server = Server()
    driver = drive(server)
    for _ in range(module._RESTARTS + 1):
        assert "south" in (driver.next() or {})
        driver.reply("south", NO_CHANNEL)
        if "north" in driver._awaited:
            driver.absent("north", "gone")
    assert driver.next() == {}
    assert server.outcomes[0]["south"].reason == "it was started anew more than 3 times"
    assert set(driver.next() or {}) == set(SITES)  # and begins afresh with what is asked next


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.reply("north", number("1")),
        lambda d: d.absent("north", LATE),
        lambda d: d.reply("x" * 1000, b""),
    ],
)
def test_one_outcome_for_each_message(call: Callable[[Driver], None]) -> None:
    driver = drive(Server())
    with pytest.raises(FrameError, match="nothing was asked"):
        call(driver)
    hello(driver)
    driver.next()
    driver.reply("north", number("1"))
    with pytest.raises(FrameError, match="nothing was asked"):
        call(driver)
