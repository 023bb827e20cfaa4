"""The C library goes into images of programs that use it, and only if it is of their sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.errors import StorageError
from sealtune.images.parts import LIBRARY, library_file
from sealtune.native.sources import digest


def test_a_program_that_uses_it_gets_it(tmp_path: Path) -> None:
    library = tmp_path / "some.so"
    library.write_bytes(b"\x7fELF " + digest().encode())
    ((path, entry),) = library_file("site-enclave", library)
    assert path == LIBRARY
    assert entry.data == library.read_bytes()
    assert not list(library_file("aggregator", library))


def test_one_of_other_sources_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "some.so"
    library.write_bytes(b"\x7fELF " + digest()[::-1].encode())
    with pytest.raises(StorageError, match="other sources"):
        list(library_file("site-enclave", library))


def test_one_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        list(library_file("site-enclave", tmp_path / "none.so"))
