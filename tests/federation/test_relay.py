"""The relay's loop between an aggregator and a transport."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sealtune.channel.shared import Messages
from sealtune.errors import FederationError, FrameError
from sealtune.federation.enclave_link import Outcome
from sealtune.federation.flower_transport import FlowerTransport
from sealtune.federation.relay import dial, relay
from sealtune.frames import Frame
from sealtune.party.relay_link import serve_until_done
from tests.federation.enclaves import Aggregator, order


class Echo(FlowerTransport):
    """Sends every body back, except to sites whose name starts with "no"."""

    def __init__(self) -> None: ...

    def exchange(
        self,
        outgoing: Mapping[str, bytes],
        deadline: float,
        report: Callable[[Outcome], None],
        left: float | None = None,
        limit: int = 0,
    ) -> None:
        for site, body in outgoing.items():
            if site.startswith("no"):
                report(Outcome(site, None, "gone fishing", 3, 1.0, len(body)))
            else:
                report(Outcome(site, body, "", 1, 0.5, len(body)))


def silent(event: str, **fields: Any) -> None:
    """Says nothing."""


def run(path: Path, orders: list[Frame]) -> list[Frame]:
    aggregator = Aggregator(path, orders)
    try:
        relay(dial(str(path)), Echo(), silent)
    finally:
        aggregator.close()
    return aggregator.reports


def test_what_sites_get_alike_comes_once_and_ends_each_ones_message(tmp_path: Path) -> None:
    meta = {"to": {"a": 1, "b": 2, "c": 3}, "alike": ["a", "c"], "deadline": 5}
    reports = run(tmp_path / "s", [Frame("send", meta, b"122333 and all"), Frame("done")])
    assert [(f.meta["site"], bytes(f.body)) for f in reports] == [
        ("a", b"1 and all"),
        ("b", b"22"),
        ("c", b"333 and all"),
    ]


def test_every_outcome_is_reported(tmp_path: Path) -> None:
    orders = [order({"a": b"12", "nobody": b"345", "b": b""}), order({"a": b"6"}), Frame("done")]
    reports = run(tmp_path / "s", orders)
    assert [(f.kind, f.meta["site"], bytes(f.body)) for f in reports] == [
        ("reply", "a", b"12"),
        ("absent", "nobody", b""),
        ("reply", "b", b""),
        ("reply", "a", b"6"),
    ]
    assert reports[1].meta["reason"] == "gone fishing"


class Counts:
    """A server program that asks two sites once; its enclave reads answers of 8 bytes."""

    max_message = 8
    deadline = left = 5.0

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def next(self) -> Messages | None:
        own = {"greedy": b"9 bytes..", "honest": b"8 bytes."}
        return None if self.outcomes else Messages(own)

    def reply(self, site: str, body: bytes) -> None:
        self.outcomes[site] = body.decode()

    def absent(self, site: str, reason: str) -> None:
        self.outcomes[site] = reason


def test_an_answer_that_no_enclave_would_read_fails_its_site_alone(tmp_path: Path) -> None:
    program, path = Counts(), tmp_path / "s"
    ready = threading.Event()
    enclave = threading.Thread(
        target=serve_until_done, args=(str(path), program, lambda _: ready.set()), daemon=True
    )
    enclave.start()
    ready.wait(10)
    relay(dial(str(path)), Echo(), silent)
    enclave.join(10)
    assert program.outcomes["honest"] == "8 bytes."
    assert "9 bytes, at most 8" in program.outcomes["greedy"]


def test_an_aggregator_that_gives_up(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="gave up: too few sites"):
        run(tmp_path / "s", [Frame("failed", {"message": "too few sites"})])


def test_an_aggregator_that_is_gone_for_good(tmp_path: Path) -> None:
    aggregator = Aggregator(tmp_path / "s", [])
    connections = dial(str(tmp_path / "s"))
    next(connections).close()
    aggregator.close()
    with pytest.raises(FederationError, match="no enclave listens"):
        relay(connections, Echo(), silent)


@pytest.mark.parametrize(
    "answer",
    [
        Frame("send", {"to": {"a": 3}, "deadline": 1}, b"12"),
        Frame("send", {"to": {"a": 1}, "deadline": 1}, b"12"),
        Frame("send", {"to": {"a": -1, "b": 3}, "deadline": 1}, b"12"),
        Frame("send", {"to": {"a": 2}}, b"12"),
        Frame("send", {"to": {"a": 2}, "deadline": 0}, b"12"),
        Frame("send", {"to": [2], "deadline": 1}, b"12"),
        Frame("send", {"to": {"a": 1}, "alike": ["b"], "deadline": 1}, b"12"),
        Frame("send", {"to": {"a": 1}, "alike": [["a"]], "deadline": 1}, b"12"),
        Frame("send", {"to": {"a": 1}, "alike": "a", "deadline": 1}, b"12"),
        Frame("send", {"to": {"a": 2}, "alike": ["a"], "deadline": 1}, b"12"),
        Frame("hm"),
    ],
)
def test_nonsense_from_the_aggregator(tmp_path: Path, answer: Frame) -> None:
    with pytest.raises(FrameError):
        run(tmp_path / "s", [answer])
