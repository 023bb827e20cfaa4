"""The chain of a server's rounds, and what a site makes of a head of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune import frames
from sealtune.errors import FrameError, RollbackError, StorageError
from sealtune.frames import Frame
from sealtune.job.authenticated_file import OwnFiles
from sealtune.party.checkpoint import Checkpoint, CheckpointFile, State
from sealtune.party.continuity import Continuity, own_continuity
from sealtune.party.history import Head, History, Stated

KEY, JOB = b"k" * 32, bytes([1]) * 48
ROUNDS = 10_000  # the most that a job may have


def grown(rounds: int, *, key: bytes = KEY, job_id: bytes = JOB, last: bytes = b"") -> History:
    """After ``rounds`` rounds, of which ``last`` may make the last one another."""
    history = History(key, job_id)
    for number in range(rounds):
        state = b"state %d" % number + (last if number == rounds - 1 else b"")
        history.extend([history.link(number, state)])
    return history


def site(folder: Path, name: str = "north", job_id: bytes = JOB) -> Continuity:
    files = OwnFiles(folder / "log.json", name, "00" * 32, b"s" * 32)
    return own_continuity(job_id.hex(), files)


def test_it_is_the_same_for_the_same_states_and_no_other() -> None:
    head = grown(3).head
    assert head == grown(3).head
    others = [
        grown(2), grown(4), grown(3, last=b"!"), grown(3, key=b"x" * 32),
        grown(3, job_id=bytes(48)),
    ]  # fmt: skip
    assert len({head, *(other.head for other in others)}) == 6
    assert grown(0).head == Head(-1, bytes(32))


def test_links_say_nothing_of_a_state_that_can_be_guessed() -> None:
    """Whoever knows all the states but not the key cannot make a link of them."""
    assert not set(grown(5).links) & set(grown(5, key=b"x" * 32).links)


@pytest.mark.parametrize("seen", [0, 1, 4, 9])
@pytest.mark.parametrize("known", [-1, 0, 1])
def test_a_site_follows_from_wherever_it_was(tmp_path: Path, seen: int, known: int) -> None:
    north = site(tmp_path)
    north.follow(grown(seen).stated().fields)
    told = grown(10).stated(known)
    if known > seen - 1 and seen:
        with pytest.raises(RollbackError, match="does not say how it came from round"):
            north.follow(told.fields)
        return
    north.follow(told.fields)
    assert north.seen == Stated(told.head, (), told.mark)
    north.follow(told.fields)  # asked again


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (grown(4), "is at round 3, and this site has seen what came after round 4"),
        (grown(0), "begins the job"),
        (grown(5, last=b"!"), "does not go on from the round 4"),
        (grown(9, key=b"x" * 32), "does not go on from the round 4"),
    ],
)
def test_a_site_follows_no_other(tmp_path: Path, other: History, words: str) -> None:
    north = site(tmp_path)
    north.follow(grown(5).stated().fields)
    with pytest.raises(RollbackError, match=words):
        north.follow(other.stated().fields)
    with pytest.raises(RollbackError):  # also another process
        site(tmp_path).follow(other.stated().fields)
    north.follow(grown(6).stated().fields)  # the true one goes on
    if other.head.round < 0:
        with pytest.raises(RollbackError, match="begins the job"):
            north.check(anew=True)


def test_a_link_cannot_be_moved_to_another_round(tmp_path: Path) -> None:
    north = site(tmp_path)
    north.follow(grown(3).stated().fields)
    told = grown(6).stated(2)
    for links in (told.links[::-1], told.links[1:] + told.links[:1]):
        with pytest.raises(RollbackError, match="does not go on"):
            north.follow(Stated(told.head, links, told.mark).fields)


def test_a_server_knows_what_it_once_told() -> None:
    now, later, fork = grown(4), grown(6), grown(4, last=b"!")
    for told in (later.stated(), fork.stated()):
        assert now.disproves(Stated.read(told.fields))
    for earlier in (0, 1, 3, 4):
        assert not now.disproves(grown(earlier).stated())  # a site that missed rounds
    for forged in (later.stated().head, Head(9, b"h" * 32), Head(3, b"h" * 32)):
        assert not now.disproves(Stated(forged, (), bytes(32)))
    assert not now.disproves(grown(6, key=b"x" * 32).stated())  # another server's


FIELDS = grown(3).stated().fields


@pytest.mark.parametrize(
    "fields",
    [
        None, [], {}, {**FIELDS, "more": 1}, {**FIELDS, "round": True}, {**FIELDS, "round": -1.0},
        {**FIELDS, "round": -2}, {**FIELDS, "round": 1}, {**FIELDS, "round": 1 << 40},
        {**FIELDS, "digest": "00"}, {**FIELDS, "digest": None}, {**FIELDS, "mark": "zz" * 32},
        {**FIELDS, "links": "00" * 33}, {**FIELDS, "links": 7},
    ],
)  # fmt: skip
def test_what_is_no_head_is_refused(tmp_path: Path, fields: Any) -> None:
    with pytest.raises(FrameError, match="does not say after which round"):
        site(tmp_path).follow(fields)


def test_a_first_head_must_add_up(tmp_path: Path) -> None:
    for fields in (
        {**FIELDS, "digest": "00" * 32},
        {**grown(0).stated().fields, "digest": "11" * 32},
    ):
        with pytest.raises(FrameError, match="do not add up"):
            site(tmp_path).follow(fields)


def test_the_longest_job_fits_into_a_message() -> None:
    history = History(KEY, JOB)
    history.extend([bytes(32)] * (ROUNDS + 1))
    frames.encode(Frame("train", {"head": history.stated().fields}))


def test_sites_and_jobs_on_one_machine_do_not_mix(tmp_path: Path) -> None:
    site(tmp_path).follow(grown(5).stated().fields)
    site(tmp_path, "south").follow(grown(2).stated().fields)
    site(tmp_path, job_id=bytes(48)).follow(grown(1, job_id=bytes(48)).stated().fields)
    assert site(tmp_path).seen != site(tmp_path, "south").seen


def test_a_head_that_cannot_be_kept_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        site(tmp_path / "file").follow(FIELDS)


# ---- in the checkpoint --------------------------------------------------------------------------


def checkpoints(folder: Path) -> tuple[History, CheckpointFile[State]]:
    history = History(KEY, JOB)
    return history, CheckpointFile(folder, KEY, JOB, State, history=history)


def test_a_checkpoint_keeps_the_history(tmp_path: Path) -> None:
    history, file = checkpoints(tmp_path)
    for number in range(4):
        file.save(Checkpoint(number, State(), b"tensors %d" % number))
    again, other = checkpoints(tmp_path)
    assert other.load() == Checkpoint(3, State(), b"tensors 3")
    assert (again.head, again.links) == (history.head, history.links)
    with pytest.raises(StorageError, match="does not follow"):
        other.save(Checkpoint(3, State()))


def test_what_was_not_written_is_not_told(tmp_path: Path) -> None:
    history, file = checkpoints(tmp_path / "state")
    (tmp_path / "state").write_text("no folder")
    with pytest.raises(StorageError):
        file.save(Checkpoint(0, State()))
    assert history.head == Head()


def test_a_checkpoint_without_its_history_is_refused(tmp_path: Path) -> None:
    CheckpointFile(tmp_path, KEY, JOB, State).save(Checkpoint(3, State()))
    with pytest.raises(StorageError, match="no history of all its rounds"):
        checkpoints(tmp_path)[1].load()
