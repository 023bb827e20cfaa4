"""A site counts the rounds that it trains, whatever the server says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sealtune.errors import PrivacyBudgetError, StorageError
from sealtune.job.authenticated_file import OwnFiles
from sealtune.privacy.ledger import SiteLedger

JOB, OTHER = "ab" * 48, "cd" * 48


def files(folder: Path, site: str = "north") -> OwnFiles:
    return OwnFiles(folder / "log.json", site, "00" * 32, b"s" * 32)


def test_it_goes_on_where_the_process_before_ended(tmp_path: Path) -> None:
    own = files(tmp_path / "jobs")
    for number in range(1, 7):
        ledger = SiteLedger(own, JOB, 3)
        ledger.count()
        assert ledger.rounds == number
    with pytest.raises(PrivacyBudgetError, match="pays for 3"):
        SiteLedger(own, JOB, 3).count()
    assert SiteLedger(own, JOB, 3).rounds == 6
    assert SiteLedger(own, OTHER, 3).rounds == SiteLedger(files(tmp_path, "south"), JOB, 3).rounds


def test_two_processes_of_a_site_count_together(tmp_path: Path) -> None:
    one, two = (SiteLedger(files(tmp_path), JOB, 3) for _ in range(2))
    one.count()
    two.count()
    assert one.rounds == 2


def test_nothing_is_trained_that_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        SiteLedger(files(tmp_path / "file"), JOB, 3).count()


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda _: b"",
    "cut": lambda data: data[:-1],
    "set back": lambda data: data.replace(b":2", b":0"),
    "too long": lambda data: data + b" " * 9000,
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_is_not_as_it_was_is_no_fresh_start(tmp_path: Path, how: str) -> None:
    """Attack: whoever keeps the site's disk sets the count back."""
    ledger = SiteLedger(files(tmp_path), JOB, 3)
    ledger.count()
    ledger.count()
    path = ledger._file.path
    content = SPOILT[how](path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(StorageError):
        SiteLedger(files(tmp_path), JOB, 3)
    assert path.read_bytes() == content


@pytest.mark.parametrize(("site", "job"), [("south", JOB), ("north", OTHER)])
def test_a_count_of_something_else_is_none(tmp_path: Path, site: str, job: str) -> None:
    mine, others = SiteLedger(files(tmp_path), JOB, 3), SiteLedger(files(tmp_path, site), job, 3)
    others.count()
    mine._file.path.write_bytes(others._file.path.read_bytes())
    with pytest.raises(StorageError, match="is not as this site wrote it"):
        mine.count()


def test_a_longer_job_may_be_interrupted_more_often(tmp_path: Path) -> None:
    own = files(tmp_path)
    assert [SiteLedger(own, JOB, n).most for n in (1, 39, 40, 200)] == [4, 42, 44, 220]
