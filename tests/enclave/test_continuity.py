"""Servers that went back, or are two: each attack is tried, and every honest restart goes on."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from sealtune.errors import (
    RollbackError,
    SealError,
    SiteLostError,
    StorageError,
)
from sealtune.frames import Frame
from sealtune.job.sections import SitesSpec
from sealtune.job.spec import Job
from sealtune.launch.parties import admit_party
from sealtune.methods.split.answers import SplitAnswers
from sealtune.owner.client import SplitClient
from sealtune.party.admit import admit
from sealtune.party.driver import Driver
from sealtune.party.site_program import NO_CHANNEL
from sealtune.plan.roles import OWNER_ASKING
from tests.enclave.flow import SITES, Federation, make_federation, make_job, make_spare_job
from tests.enclave.split_flow import SplitFederation, make_split, make_split_job
from tests.enclave.test_federation import WEIGHTS, whole_run

# exchanges of a run: 0 challenge, 1 key, 2 evaluation, 3 round 1, 4 round 2, ..., release
EVALUATION, ROUND_1 = 2, 3
ROUNDS = 3


def three_rounds(folder: Path, base: Path, **sections: Any) -> Job:
    return make_job(folder, base, job={"seed": 3, "rounds": ROUNDS}, **sections)


def three_sites(folder: Path, base: Path, **sections: Any) -> Job:
    return make_spare_job(folder, base, job={"seed": 3, "rounds": ROUNDS}, **sections)


def state(federation: Federation) -> Path:
    return federation.run_dir / "state" / "checkpoint.sealed"


def seen_file(federation: Federation, site: str) -> Path:
    job_id = federation.resolved.job_id
    (found,) = (federation.run_dir / "jobs").glob(f"*-{site}-{job_id[:32]}-seen.json")
    return found


def numbers(federation: Federation, site: str) -> np.ndarray[Any, Any]:
    """The released adapter, float64."""
    path = federation.run_dir / "sites" / site / "adapter" / WEIGHTS
    tensors = load_file(path)
    return np.concatenate([tensors[n].astype(np.float64).ravel() for n in sorted(tensors)])


def ask(federation: Federation, server: Driver, **answer: Any) -> None:
    """One exchange, all sites; ``answer`` is said in the place of a site that is named."""
    for site, message in (server.next() or {}).items():
        if site in answer:
            server.absent(site, answer[site])
        else:
            server.reply(site, federation.sites[site].deliver(message))


def refusals(federation: Federation, site: str) -> list[str]:
    return [e["message"] for e in federation.of("refused", f"client:{site}")]


# ---- honest restarts ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without a break gives each site, and its job."""
    folder = tmp_path_factory.mktemp("straight")
    job = three_rounds(folder, llama)
    federation = whole_run(job, folder / "run")
    return {"job": job, **{site: numbers(federation, site) for site in SITES}}


@pytest.mark.parametrize("who", ["server", "all"])
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("exchanges", [1, 2, 3, 4, 5, 6])
def test_whoever_is_killed_wherever_the_job_ends_as_if_nobody_had_been(
    straight: dict[str, Any], tmp_path: Path, who: str, exchanges: int, closes: bool
) -> None:
    """Also between the checkpoint and the next question, which is when a round becomes known."""
    federation = make_federation(straight["job"], tmp_path / "run")
    server = federation.aggregator()
    federation.run(server, exchanges=exchanges)
    if closes:
        server.next()  # takes the answers, writes the checkpoint, and dies with its question
    for site in SITES if who == "all" else ():
        federation.start_site(site)
    federation.events.clear()
    federation.run(federation.aggregator(resume=True))
    for site in SITES:
        assert (numbers(federation, site) == straight[site]).all()
        assert refusals(federation, site) == []
        # nothing moved before both sides had proved themselves anew
        own = [e["event"] for e in federation.events if e["role"] == f"client:{site}"]
        assert own.index("attested") == 0
    assert [e["who"] for e in federation.of("attested", "server")] == [*SITES[::-1]]


@pytest.mark.parametrize("exchanges", [EVALUATION + 1, ROUND_1 + 1, ROUND_1 + ROUNDS])
def test_a_site_that_was_killed_proves_itself_anew_to_a_living_server(
    straight: dict[str, Any], tmp_path: Path, exchanges: int
) -> None:
    """And the server to it: its old channel is dead, and nothing moves before."""
    federation = make_federation(straight["job"], tmp_path / "run")
    server = federation.aggregator()
    federation.run(server, exchanges=exchanges)
    federation.start_site("south")
    federation.events.clear()
    federation.run(server)
    assert [(e["who"], e["by"]) for e in federation.of("attested")] == [
        ("south", "server"), ("server", "south"),
    ]  # fmt: skip
    own = [e["event"] for e in federation.events if e["role"] == "client:south"]
    assert own[0] == "attested"
    for site in SITES:
        assert (numbers(federation, site) == straight[site]).all()
        assert refusals(federation, site) == []


def test_a_site_that_missed_rounds_goes_on(llama: Path, tmp_path: Path) -> None:
    """It is told the links of what it missed, whether or not its server was restarted."""
    for resume in (False, True):
        job = three_sites(tmp_path, llama)
        federation = make_federation(job, tmp_path / f"run-{resume}")
        server = federation.aggregator()
        federation.run(
            server,
            exchanges=6,
            network=lambda site, _way, number, body: (
                None if site == "west" and number in (ROUND_1, ROUND_1 + 1) else body
            ),
        )
        federation.run(federation.aggregator(resume=True) if resume else server)
        final = federation.of("final")[0]["sites"]
        assert {entry["outcome"] for entry in final.values()} == {"ok"}
        assert refusals(federation, "west") == []


def test_a_site_that_is_seldom_asked_goes_on(llama: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "sites": SitesSpec(names=(*SITES, "west"), partition="dirichlet", alpha=5.0),
        "aggregation": {"participation": 0.6},
        "job": {"seed": 3, "rounds": 6},
        "train": {"steps_per_round": 1, "batch_size": 4, "learning_rate": 5e-3},
    }
    federation = make_federation(make_job(tmp_path, llama, **sections), tmp_path / "run")
    federation.run(federation.aggregator(), exchanges=6)
    federation.run(federation.aggregator(resume=True))
    final = federation.of("final")[0]["sites"]
    assert {entry["outcome"] for entry in final.values()} == {"ok"}


def test_each_question_says_which_rounds_are_done(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    worker = federation.sites["north"]._worker
    honest, heads = worker.answer, []

    def answer(question: Frame) -> Frame:
        head = question.meta["head"]
        heads.append((question.kind, head["round"], len(head["links"]) // 64))
        return honest(question)

    worker.answer = answer  # type: ignore[method-assign]
    federation.run(federation.aggregator())
    assert heads == [
        ("evaluate", -1, 0), ("train", 0, 1), ("train", 1, 1), ("train", 2, 1), ("release", 3, 1),
    ]  # fmt: skip


# ---- an older state -----------------------------------------------------------------------------


def checkpoints(federation: Federation, server: Driver, exchanges: int) -> list[bytes | None]:
    """Run so far; the checkpoint after each round, None first: before there was any."""
    kept: list[bytes | None] = [None]
    for _ in range(exchanges):
        ask(federation, server)
        if state(federation).exists() and (now := state(federation).read_bytes()) != kept[-1]:
            kept.append(now)
    return kept


def put_back(federation: Federation, sealed: bytes | None) -> None:
    if sealed is None:
        state(federation).unlink()
    else:
        state(federation).write_bytes(sealed)


def test_an_older_checkpoint_is_refused_at_every_round(llama: Path, tmp_path: Path) -> None:
    """Attack: the server's operator puts it back. The server learns it from the first site whose
    answer comes through: the site shows what the server itself once told it.
    """
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    kept = checkpoints(federation, federation.aggregator(), 7)
    assert len(kept) == ROUNDS + 2
    newest = state(federation).read_bytes()
    for site in SITES:
        federation.start_site(site)
    for number, sealed in enumerate(kept[:-1], -1):
        put_back(federation, sealed)
        federation.events.clear()
        with pytest.raises(RollbackError, match=f"the last of which is after round {number}:"):
            federation.run(federation.aggregator(resume=True))
        assert not federation.of("step") + federation.of("evaluated")
        assert refusals(federation, "south")[0].startswith(
            "the server enclave begins the job" if number < 0
            else f"the server enclave is at round {number}, "
        )  # fmt: skip
    put_back(federation, newest)
    federation.run(federation.aggregator(resume=True))
    assert federation.of("final")[0]["sites"]["south"]["outcome"] == "ok"


def test_a_job_that_is_begun_anew_is_refused(llama: Path, tmp_path: Path) -> None:
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    federation.run(federation.aggregator(), exchanges=ROUND_1 + 1)
    with pytest.raises(RollbackError, match="none of this server's states"):
        federation.run(federation.aggregator())


def test_sites_refuse_even_where_the_network_hides_that_they_do(
    llama: Path, tmp_path: Path
) -> None:
    """Attack: the operator drops refusals, so that its rolled back enclave hears of nothing."""
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    kept = checkpoints(federation, federation.aggregator(), 6)
    put_back(federation, kept[2])
    federation.events.clear()

    def drops(_site: str, way: str, number: int, body: bytes) -> bytes | None:
        return None if way == "up" and number == EVALUATION else body

    with pytest.raises(SiteLostError):
        federation.run(federation.aggregator(resume=True), network=drops)
    assert not federation.of("step")
    for site in SITES:
        assert len(refusals(federation, site)) == 1


# ---- two servers --------------------------------------------------------------------------------


def asked_by(federation: Federation, server: Driver, *lost: str) -> None:
    """Handshakes, and one question; some sites' answers get lost."""
    for _ in range(2):
        ask(federation, server)
    ask(federation, server, **dict.fromkeys(lost, "lost"))


def fork(llama: Path, folder: Path) -> tuple[Federation, Federation]:
    """Two servers go on from one checkpoint, of round 1: round 2 is north's and south's with the
    first, north's and west's with the second. Then north sees what came of the first.
    """
    first = make_federation(three_sites(folder, llama), folder / "run")
    server = first.aggregator()
    first.run(server, exchanges=ROUND_1 + 1)
    server.next()
    second = Federation(dict(first.parties), folder / "other", first.events, first.sites)
    shutil.copytree(first.run_dir / "state", second.run_dir / "state")
    local = first.parties["server"]
    second.parties["server"] = local.model_copy(update={"folder": second.run_dir})
    for branch, lost in ((first, "west"), (second, "south")):
        server = branch.aggregator(resume=True)
        asked_by(branch, server, lost)  # the round under way may be asked for again
        server.next()
    asked_by(first, first.aggregator(resume=True), "south", "west")
    assert [e["round"] for e in first.of("phase", "client:north") if e["phase"] == "train"] == [
        1, 2, 2, 3,
    ]  # fmt: skip
    first.events.clear()
    return first, second


def test_a_fork_is_refused_by_who_saw_the_other_branch(llama: Path, tmp_path: Path) -> None:
    first, second = fork(llama, tmp_path)
    server = second.aggregator(resume=True)
    with pytest.raises(RollbackError, match="north has seen what came after round 2"):
        asked_by(second, server, "south", "west")
    assert "two servers were let run from one checkpoint" in refusals(first, "north")[0]
    assert not first.of("step", "client:north")


def test_a_fork_is_refused_rounds_later(llama: Path, tmp_path: Path) -> None:
    """Attack: the second server goes ahead without north, and comes back with a higher round."""
    first, second = fork(llama, tmp_path)
    server = second.aggregator(resume=True)
    asked_by(second, server, "north")  # round 3 of the second branch
    server.next()
    server = second.aggregator(resume=True)
    first.events.clear()
    with pytest.raises(RollbackError, match="north has seen what came after round 2"):
        asked_by(second, server, "south", "west")
    assert "round 3 does not go on from the round 2" in refusals(first, "north")[0]


# ---- channels of enclaves that ended ------------------------------------------------------------


def test_a_snapshot_of_a_servers_process_cannot_go_on(llama: Path, tmp_path: Path) -> None:
    """Attack: a server enclave's memory is put back, channels and all."""
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    server = federation.aggregator()
    federation.run(server, exchanges=ROUND_1)
    snapshot = {site: copy.deepcopy(server._links[site]._channel) for site in SITES}
    federation.run(server, exchanges=1)
    for site in SITES:
        channel = snapshot[site]
        assert channel is not None
        message = channel.outgoing.seal(b"anything", 1)
        with pytest.raises(SealError, match="already opened: replayed"):
            federation.sites[site].deliver(message)
    federation.run(server)  # nothing came of it
    assert federation.of("final")


def test_a_snapshot_of_a_sites_process_cannot_go_on(llama: Path, tmp_path: Path) -> None:
    """Attack: a site enclave's memory is put back; what it says then is not its next message."""
    federation = make_federation(three_sites(tmp_path, llama), tmp_path / "run")
    server, north = federation.aggregator(), federation.sites["north"]
    federation.run(server, exchanges=ROUND_1)
    snapshot = copy.deepcopy(north._channel)
    federation.run(server, exchanges=1)
    north._channel = snapshot
    with pytest.raises(SealError, match="came before"):
        north.deliver((server.next() or {})["north"])


@pytest.mark.parametrize("after", ["the server", "the site"])
def test_an_old_process_is_not_heard_after_a_new_one(
    llama: Path, tmp_path: Path, after: str
) -> None:
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    old, old_sites = federation.aggregator(), dict(federation.sites)
    federation.run(old, exchanges=ROUND_1 + 1)
    question = (old.next() or {})["north"]
    if after == "the server":
        new = federation.aggregator(resume=True)
        for _ in range(3):
            ask(federation, new)
        with pytest.raises(SealError, match="came before message 1"):
            federation.sites["north"].deliver(question)
        return
    federation.start_site("north")
    assert federation.sites["north"].deliver(question) == NO_CHANNEL
    answer = old_sites["north"].deliver(question)
    new = federation.aggregator(resume=True)
    for _ in range(2):
        ask(federation, new)
    new.next()
    new.reply("north", answer)  # Attack: what the old process answered the old server
    assert "refused" in new._current.outcomes["north"].reason


# ---- the site's file ----------------------------------------------------------------------------


SPOILT = {
    "altered": lambda data: data.replace(b'"round":1', b'"round":0'),
    "cut": lambda data: data[:-3],
    "emptied": lambda _: b"",
    "of another site": None,
    "of another job": None,
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_a_site_has_seen_cannot_be_changed(llama: Path, tmp_path: Path, how: str) -> None:
    job = three_rounds(tmp_path, llama)
    federation = make_federation(job, tmp_path / "run")
    federation.run(federation.aggregator(), exchanges=ROUND_1 + 2)
    path, change = seen_file(federation, "north"), SPOILT[how]
    if change is not None:
        assert change(path.read_bytes()) != path.read_bytes()
        path.write_bytes(change(path.read_bytes()))
    elif how == "of another site":
        path.write_bytes(seen_file(federation, "south").read_bytes())
    else:
        other = make_federation(
            three_rounds(tmp_path, llama, data={"max_tokens": 23}), tmp_path / "o"
        )
        other.run(other.aggregator(), exchanges=ROUND_1 + 2)
        path.write_bytes(seen_file(other, "north").read_bytes())
    with pytest.raises(StorageError, match="is not as this site wrote it"):
        federation.start_site("north")
    with pytest.raises(SiteLostError, match="north: what this site has seen of the job"):
        federation.run(federation.aggregator(resume=True))


@pytest.mark.parametrize("how", ["deleted", "put back"])
def test_a_living_site_notices_that_its_file_was_taken(
    llama: Path, tmp_path: Path, how: str
) -> None:
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    server = federation.aggregator()
    federation.run(server, exchanges=ROUND_1 + 1)
    path = seen_file(federation, "north")
    old = path.read_bytes()
    federation.run(server, exchanges=1)
    if how == "deleted":
        path.unlink()
    else:
        path.write_bytes(old)
    with pytest.raises(StorageError, match="older than what this site has seen"):
        federation.sites["north"].deliver((server.next() or {})["north"])


def test_a_new_machine_believes_the_first_head(llama: Path, tmp_path: Path) -> None:
    """As does one whose host has deleted the file: that much is in the host's power."""
    federation = make_federation(three_rounds(tmp_path, llama), tmp_path / "run")
    kept = checkpoints(federation, federation.aggregator(), 6)
    for site in SITES:
        seen_file(federation, site).unlink()
        federation.start_site(site)
    put_back(federation, kept[2])
    federation.run(federation.aggregator(resume=True))
    assert federation.of("final")[0]["sites"]["south"]["outcome"] == "ok"


def test_a_site_cannot_stop_the_job_by_saying_that_it_saw_more(llama: Path, tmp_path: Path) -> None:
    """Attack: a hostile site claims a later round. It has no mark of the server's for it."""
    federation = make_federation(three_sites(tmp_path, llama), tmp_path / "run")
    west: Any = federation.sites["west"]
    honest = west._refusal

    def lies(question: Frame, round_: int) -> Frame | None:
        honest(question, round_)
        head = question.meta["head"]
        told = {**head, "round": head["round"] + 1, "digest": "ab" * 32, "links": ""}
        return Frame("refused", {"round": round_, "seen": told})

    west._refusal = lies
    federation.run(federation.aggregator())
    final = federation.of("final")[0]["sites"]
    assert (final["west"]["outcome"], final["north"]["outcome"]) == ("failed", "ok")
    assert "does not follow this server" in final["west"]["reason"]


# ---- split jobs ---------------------------------------------------------------------------------


def finished(llama: Path, folder: Path) -> tuple[SplitFederation, list[bytes]]:
    """A split job to its end, and the checkpoint after each of its rounds."""
    federation = make_split(make_split_job(folder, llama), folder / "run")
    server, kept = federation.server(), list[bytes]()
    while (outgoing := server.next()) is not None:
        for site, message in outgoing.items():
            server.reply(site, federation.sites[site].deliver(message))
        if state(federation).exists() and state(federation).read_bytes() not in kept:
            kept.append(state(federation).read_bytes())
    return federation, kept


def trained_otherwise(federation: SplitFederation, sealed: bytes) -> Driver:
    """A server that goes on from an older checkpoint, and trains to another end."""
    put_back(federation, sealed)
    federation.events.clear()
    server = federation.server(resume=True)
    trainer = federation.enclave._trainer
    honest = trainer.train

    def more(number: int) -> Any:
        honest(number)
        return honest(number)

    trainer.train = more  # type: ignore[method-assign]
    return server


def test_a_split_server_that_went_back_releases_nothing(llama: Path, tmp_path: Path) -> None:
    federation, kept = finished(llama, tmp_path)
    assert len(kept) == 3
    put_back(federation, kept[1])
    federation.run(federation.server(resume=True))  # to the same end: nothing new is to be had
    assert refusals(federation, "north") == []
    server = trained_otherwise(federation, kept[1])
    with pytest.raises(RollbackError, match="has seen what came after round 2"):
        federation.run(server)
    assert "two servers were let run" in refusals(federation, "south")[0]


def test_a_split_server_that_begins_anew_gets_no_second_upload(llama: Path, tmp_path: Path) -> None:
    federation, _ = finished(llama, tmp_path)
    federation.events.clear()
    with pytest.raises(RollbackError, match="the last of which is after round -1"):
        federation.run(federation.server())
    assert not federation.of("uploaded")


def test_a_split_server_answers_no_questions_from_another_state(
    llama: Path, tmp_path: Path
) -> None:
    """Attack: the model that answers after the end is not the one that sites were told of."""
    federation, kept = finished(llama, tmp_path)
    server = trained_otherwise(federation, kept[1])
    with pytest.raises(RollbackError):
        federation.run(server)
    client = SplitClient(admit(federation.parties["north"], OWNER_ASKING))
    serving = federation.parties["server"].model_copy(update={"serve": "north"})
    admitted = admit_party(serving)
    enclave = SplitAnswers(admitted, federation.emitter("server"))
    driver = Driver(enclave, admitted, federation.emitter("server"))

    def carry(deliver: Callable[[bytes], bytes]) -> None:
        while (outgoing := driver.next()) is not None:
            for site, message in outgoing.items():
                driver.reply(site, deliver(message))

    with pytest.raises(RollbackError, match="north has seen what came after round 2"):
        client.classify(["acute angina"], carry)
