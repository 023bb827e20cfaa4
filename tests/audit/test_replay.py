"""Recorded messages, checkpoints and evidence, given again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.audit import replay
from sealtune.audit.ends import Ends
from sealtune.audit.finding import Finding, Verdict
from sealtune.audit.replay import RELAY, REPLAY
from sealtune.audit.subject import Subject
from sealtune.channel import stream
from sealtune.channel.sealed import SealedSession
from sealtune.channel.stream import Header
from sealtune.party.continuity import Continuity
from tests.audit.run_folder import SPLIT, make_run
from tests.audit.test_subject import SUMS

METHODS: dict[str, dict[str, Any]] = {"federated": {}, "split": SPLIT, "sums": SUMS}


def quiet(share: float, what: str) -> None:
    assert 0 <= share <= 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(folder / name, llama, **own) for name, own in METHODS.items()}


def of(found: list[Finding]) -> dict[str, Verdict]:
    for one in found:
        assert one.baseline.value == 1
    return {one.variant: one.verdict for one in found}


@pytest.mark.parametrize("method", METHODS)
def test_the_runs_own_code_refuses_all_of_it(runs: dict[str, Path], method: str) -> None:
    subject = Subject(runs[method], quick=True)
    replayed, relayed = of(REPLAY.run(subject, quiet)), of(RELAY.run(subject, quiet))
    assert set(replayed.values()) == set(relayed.values()) == {Verdict.HELD}
    assert ("an older checkpoint of the server" in replayed) == (method != "sums")
    assert ("the server's evidence, under another key" in relayed) == (method != "sums")


@pytest.mark.parametrize("method", METHODS)
def test_an_honest_handshake_succeeds(runs: dict[str, Path], method: str) -> None:
    """So what is refused is refused for what the attack changed."""
    for ends in (Ends.of(Subject(runs[method])), Ends.of(Subject(runs[method])).unbound()):
        server, site = ends.shake_hands()
        assert server.incoming.open(site.outgoing.seal(b"hello", 0), 0) == b"hello"


def test_evidence_that_is_not_bound_is_seen(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Ends.of
    monkeypatch.setattr(replay, "Ends", type("Loose", (), {"of": lambda s: honest(s).unbound()}))
    found = of(RELAY.run(Subject(runs["federated"], quick=True), quiet))
    assert set(found.values()) == {Verdict.BROKEN}


def test_messages_without_a_place_and_sites_without_memory_are_seen(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_(self: SealedSession, message: bytes, round: int, *, beside: bytes = b"") -> bytes:
        return stream.unseal(self._secret, Header.unpack(message), memoryview(message))[0]

    monkeypatch.setattr(SealedSession, "open", open_)
    monkeypatch.setattr(Continuity, "follow", lambda self, fields: None)
    found = of(REPLAY.run(Subject(runs["federated"], quick=True), quiet))
    assert found["later in the same channel"] is Verdict.BROKEN
    assert found["an older checkpoint of the server"] is Verdict.BROKEN
    assert found["to a server with a new channel"] is Verdict.HELD  # another secret
