"""A site counts the rounds that it trains, whatever the server says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.errors import PrivacyBudgetError, StorageError
from sealtune.privacy.ledger import SiteLedger


def test_it_goes_on_where_the_process_before_ended(tmp_path: Path) -> None:
    path = tmp_path / "sites" / "north" / "privacy.json"
    for number in range(1, 7):
        ledger = SiteLedger(path, "ab", 3)
        ledger.count()
        assert ledger.rounds == number
    with pytest.raises(PrivacyBudgetError, match="pays for 3"):
        SiteLedger(path, "ab", 3).count()
    assert SiteLedger(path, "ab", 3).rounds == 6


def test_nothing_is_trained_that_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        SiteLedger(tmp_path / "file" / "privacy.json", "ab", 3).count()


@pytest.mark.parametrize(
    "content",
    ["", "{}", '{"job_id":"ab","rounds":-1}', '{"job_id":"ab","rounds":1.5}', "x" * 9000,
     '{"job_id":"cd","rounds":1}', '{"job_id":"ab","rounds":1,"more":2}'],
)  # fmt: skip
def test_a_file_that_is_not_its_own_is_no_fresh_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "privacy.json"
    path.write_text(content)
    with pytest.raises(StorageError):
        SiteLedger(path, "ab", 3)
    assert path.read_text() == content


def test_a_longer_job_may_be_interrupted_more_often(tmp_path: Path) -> None:
    assert [SiteLedger(tmp_path / "x", "ab", n).most for n in (1, 39, 40, 200)] == [4, 42, 44, 220]
