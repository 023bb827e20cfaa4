"""Recorded evidence is what docs/recorded-evidence.md lists, or no test reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attest.public import FOLDER, digests, needs_fixtures, recorded_file

NAME = "dcap-qvl/tdx_quote"


def test_the_page_lists_files_of_all_kinds() -> None:
    assert len(digests()) > 40
    assert len({name.partition("/")[0] for name in digests()}) == 7


@needs_fixtures
def test_every_listed_file_is_in_the_folder() -> None:
    missing = [name for name in digests() if not (FOLDER / name).is_file()]
    assert not missing
    for name in digests():
        recorded_file(name)


def test_another_file_under_a_listed_name_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.parent.mkdir()
    path.write_bytes(b"another quote")
    with pytest.raises(AssertionError, match="is another file than"):
        recorded_file(NAME, tmp_path)


def test_a_file_that_is_not_listed_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(b"x")
    with pytest.raises(KeyError):
        recorded_file("quote", tmp_path)
