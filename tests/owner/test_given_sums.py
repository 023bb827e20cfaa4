"""Which sums a site gave shares for, where several of its processes note theirs at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sealtune.errors import SecureAggregationError, StorageError
from sealtune.job.authenticated_file import OwnFiles
from sealtune.owner.given_sums import GivenSums

JOB, OTHER = "aa" * 48, "bb" * 48


def files(folder: Path) -> OwnFiles:
    return OwnFiles(folder / "log.json", "north", "00" * 32, b"s" * 32)


def test_two_processes_of_a_job_give_a_sum_once(tmp_path: Path) -> None:
    one, two = (GivenSums(files(tmp_path), JOB) for _ in range(2))
    two.check(1)  # both have begun it
    one.note(1)
    for refuse in (two.check, two.note):
        with pytest.raises(SecureAggregationError, match="shares for sum 1 were given"):
            refuse(1)
    two.note(2)


def test_jobs_at_the_same_time_forget_nothing_of_each_other(tmp_path: Path) -> None:
    one, two = (GivenSums(files(tmp_path), job) for job in (JOB, OTHER))
    one.note(4)
    two.note(0)
    with pytest.raises(SecureAggregationError, match="shares for sum 4 were given"):
        GivenSums(files(tmp_path), JOB).check(4)


def test_of_many_at_once_one_gives(tmp_path: Path) -> None:
    all_of_them = [GivenSums(files(tmp_path), JOB) for _ in range(8)]
    gave, start = [], threading.Barrier(len(all_of_them))

    def give(number: int) -> None:
        start.wait()
        try:
            all_of_them[number].note(0)
        except SecureAggregationError:
            return
        gave.append(number)

    threads = [threading.Thread(target=give, args=(n,)) for n in range(len(all_of_them))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gave) == 1


@pytest.mark.parametrize("content", [b"[]", b"", None])
def test_a_file_that_is_not_as_it_was_is_found_before_any_work(
    tmp_path: Path, content: bytes | None
) -> None:
    given = GivenSums(files(tmp_path), JOB)
    given.note(3)
    data = given.path.read_bytes()
    given.path.write_bytes(data.replace(b":3", b":0") if content is None else content)
    with pytest.raises(StorageError, match="is not as this site wrote it"):
        GivenSums(files(tmp_path), JOB)
