"""Servers that do not keep to the rules, in whole runs: the sites give nothing out and say why."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats

from sealtune.errors import SecureAggregationError, SiteLostError, UnknownKeyError
from sealtune.frames import Frame
from sealtune.launch.parties import admit_party
from sealtune.methods.secure_aggregation import server as server_module
from sealtune.methods.secure_aggregation.messages import pack
from sealtune.methods.secure_aggregation.one_sum import OneSum
from sealtune.party.driver import Ask
from sealtune.secure_sum import collector as collector_module
from sealtune.secure_sum import member as member_module
from sealtune.secure_sum.collector import Collector
from sealtune.secure_sum.ring import Vector
from sealtune.secure_sum.roster import sign_keys
from tests.enclave.sum_flow import FIVE, SumFederation, make_sum, make_sum_job

Change = Callable[[dict[str, Frame]], Mapping[str, Frame]]
Asking = Generator[Ask[Any] | None, list[str], list[str]]


@pytest.fixture
def federation(llama: Path, tmp_path: Path) -> SumFederation:
    return make_sum(make_sum_job(tmp_path, llama), tmp_path / "run")


def ask_otherwise(monkeypatch: pytest.MonkeyPatch, step: str, change: Change) -> None:
    """Let the server ask something else in one step of every sum."""
    honest = getattr(OneSum, f"_{step}")

    def asking(one: OneSum) -> Asking:
        inner = honest(one)
        ask = next(inner)
        ask = Ask(**{**vars(ask), "questions": change(dict(ask.questions))})
        answered = yield ask
        try:
            inner.send(answered)
        except StopIteration as done:
            return list(done.value)
        raise AssertionError("a step asks once")

    monkeypatch.setattr(OneSum, f"_{step}", asking)


def refused(federation: SumFederation, words: str) -> None:
    """The run ends since all sites refuse, and nothing was unmasked."""
    with pytest.raises(SiteLostError, match=words):
        federation.run(federation.server())
    assert not federation.workers["north"]._given.path.exists()


def test_the_servers_own_keys(federation: SumFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It puts a key of its own into a site's place: that site's neighbours would share with it."""

    def change(questions: dict[str, Frame]) -> Mapping[str, Frame]:
        forged = {}
        for site, question in questions.items():
            body = bytearray(question.body)
            place = 160 * question.meta["sites"].index("south")
            number = question.meta["round"]
            one = OneSum(federation.resolved, number, 1, b"", anew=False)
            keys = sign_keys(
                one._terms, "south", Ed25519PrivateKey.generate(), (bytes(32),) * 3
            ).encode()
            body[place : place + 160] = keys
            forged[site] = Frame(question.kind, question.meta, bytes(body))
        return forged

    ask_otherwise(monkeypatch, "shares", change)
    refused(federation, "the keys of south are not signed by its organisation's key")


def test_another_adapter_for_one_site(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(questions: dict[str, Frame]) -> Mapping[str, Frame]:
        one = questions["west"]
        other = bytes(one.body)[:-4] + b"\0\0\0\x3f"  # its last number is 0.5
        return {**questions, "west": Frame(one.kind, one.meta, other)}

    # the server passes on what the site signs of it
    monkeypatch.setattr(Collector, "check_signature", lambda self, site, signature: signature)
    ask_otherwise(monkeypatch, "vector", change)
    refused(federation, "survivors as east was shown them are not signed")


def test_other_survivors_for_one_site(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site hears that another was lost, whose own mask the others are to open."""

    def change(questions: dict[str, Frame]) -> Mapping[str, Frame]:
        number = questions["west"].meta["round"]
        others = dict.fromkeys(set(FIVE) - {"east"}, b"")
        return {**questions, "west": pack("survivors", number, others)}

    # the server believes its own lie, so that it passes all signatures on
    monkeypatch.setattr(Collector, "check_signature", lambda self, site, signature: signature)
    ask_otherwise(monkeypatch, "survivors", change)
    refused(federation, "survivors as .* was shown them are not signed|did not survive signed")


@pytest.mark.parametrize("step", ["survivors", "unmask"])
def test_both_secrets_one_after_the_other(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After a whole sum, the server tells of other survivors, or asks for shares once more."""
    honest = OneSum._unmask

    def unmask(one: OneSum) -> Asking:
        answered = yield from honest(one)
        assert len(answered) == len(FIVE)

        def change(questions: dict[str, Frame]) -> Mapping[str, Frame]:
            if step == "unmask":
                return questions
            number = questions["west"].meta["round"]
            lists = {site: dict.fromkeys({*FIVE[1:], site}, b"") for site in questions}
            return {site: pack("survivors", number, names) for site, names in lists.items()}

        ask = next(honest(one) if step == "unmask" else OneSum._survivors(one))
        answered = yield Ask(**{**vars(ask), "questions": change(dict(ask.questions))})
        assert answered == []
        return answered

    monkeypatch.setattr(OneSum, "_unmask", unmask)
    with pytest.raises(SiteLostError, match="asked for a second time"):
        federation.run(federation.server())


def test_a_sum_once_more_without_one_site(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sum 1 of all, then sum 1 of four: the difference would be the fifth's update."""

    def program(server: Any) -> Iterator[Any]:
        for number in (0, 1, 1):
            yield from server._sum(number)

    monkeypatch.setattr(server_module.SumServer, "program", program)
    with pytest.raises(SiteLostError, match="shares for sum 1 were given"):
        federation.run(federation.server())
    assert len(federation.of("round", "server")) == 3  # the last one is of nobody


def test_a_sum_once_more_by_second_processes_of_the_same_sites(
    federation: SumFederation, llama: Path, tmp_path: Path
) -> None:
    """Both were started before the first sum, of which the second ones saw nothing."""
    second = make_sum(make_sum_job(tmp_path, llama), federation.run_dir)
    federation.run(federation.server())

    def network(site: str, _way: str, _number: int, body: bytes) -> bytes | None:
        return None if site == "west" else body

    with pytest.raises(SiteLostError, match="shares for sum 3 were given"):
        second.run(second.server(), network=network)
    assert "loss" not in second.of("round", "server")[0]  # less the first's, it would be west's


@pytest.mark.parametrize("opens", [False, True])
def test_a_site_that_shares_nonsense_stops_the_sum_and_is_named(
    federation: SumFederation, opens: bool
) -> None:
    """The server cannot look into what one seals for the others."""
    worker = federation.workers["west"]
    honest = worker._steps["shares"]

    def lie(member: Any, question: Frame) -> Frame:
        if opens:  # shares of other secrets than its keys follow from
            member._secrets = bytes(16), bytes(16)
            return honest(member, question)
        reply = honest(member, question)
        return Frame(reply.kind, reply.meta, bytes(len(reply.body)))

    worker._steps["shares"] = lie
    words = "wrong shares of a secret of west" if opens else "north: the shares from west do not"
    with pytest.raises((SecureAggregationError, SiteLostError), match=words):
        federation.run(federation.server())
    assert not any("loss" in event for event in federation.of("round", "server"))


def test_more_sums_than_the_job_has(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(server: Any) -> Iterator[Any]:
        yield from server._sum(4)

    monkeypatch.setattr(server_module.SumServer, "program", program)
    refused(federation, "the job has no sum 4")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("vector", "was not begun"), ("unmask", "was not begun"), ("train", "asked 'train'")],
)
def test_questions_that_no_server_asks(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch, kind: Any, words: str
) -> None:
    """Among them that of an aggregator, to which a site's enclave would answer with its update."""
    ask_otherwise(monkeypatch, "keys", lambda sites: {site: pack(kind, 0, {}) for site in sites})
    refused(federation, words)


def test_a_site_with_another_key_is_not_admitted(federation: SumFederation) -> None:
    local = federation.parties["west"]
    other = local.model_copy(update={"key": federation.parties["east"].key})
    with pytest.raises(UnknownKeyError, match="not the one of 'west'"):
        admit_party(other)


def view_of(federation: SumFederation, monkeypatch: pytest.MonkeyPatch) -> list[Vector]:
    """The vectors of training rounds as the server opens them."""
    seen: list[Vector] = []
    honest = Collector.check_vector

    def check(self: Collector, site: str, data: bytes) -> Vector:
        vector = honest(self, site, data)
        if len(vector) > 3:
            seen.append(vector)
        return vector

    monkeypatch.setattr(Collector, "check_vector", check)
    federation.run(federation.server())
    assert len(seen) == 2 * len(FIVE)
    return seen


def uniformity(vector: Vector) -> float:
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    return float(stats.chisquare(counts).pvalue)


def test_the_servers_view_of_single_updates_is_uniform(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert min(map(uniformity, view_of(federation, monkeypatch))) > 1e-9


def test_the_same_test_finds_updates_where_masking_is_off(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("add_mask", "add_pair_mask"):
        for module in (member_module, collector_module):
            monkeypatch.setattr(module, name, lambda *_: None)
    assert max(map(uniformity, view_of(federation, monkeypatch))) < 1e-100


def test_nonsense_of_one_site_breaks_nothing_but_figures(
    federation: SumFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell whose it was: single vectors are not seen."""
    honest = member_module.Member.mask

    def mask(self: Any, vector: Vector) -> Vector:
        return honest(self, vector + np.uint64(2**60) if self._site == "west" else vector)

    monkeypatch.setattr(member_module.Member, "mask", mask)
    federation.run(federation.server())
    for event in (*federation.of("round", "server")[:1], *federation.of("final", "server")):
        assert not {"correct", "total", "loss"} & event.keys()
        assert {line["outcome"] for line in event["sites"].values()} == {"ok"}
