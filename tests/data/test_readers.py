"""Readers: the same rows from every kind of file, and a clear message for every fault."""

from __future__ import annotations

import builtins
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.data import read_rows
from sealtune.data.hub import parse_address
from sealtune.errors import DataError

Rows = list[dict[str, Any]]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        # Quoting all keeps a row of one empty field apart from an empty line.
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Rows) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".tsv": write_csv,
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
@settings(deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), min_size=1, max_size=5))
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: Rows) -> None:
    path = tmp_path_factory.getbasetemp() / f"rows{suffix}"
    WRITERS[suffix](path, rows)
    assert read_rows(path, ["b", "a", "b"]) == rows
    assert read_rows(path, ["b"]) == [{"b": row["b"]} for row in rows]


@pytest.mark.parametrize("suffix", WRITERS)
def test_missing_column_names_the_available(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path, [{"text": "x", "diagnosis": "y"}])
    with pytest.raises(DataError, match=r"no column 'label'; available: 'text', 'diagnosis'"):
        read_rows(path, ["text", "label"])
    with pytest.raises(DataError, match=r"no columns 'a', 'b'"):
        read_rows(path, ["a", "text", "b"])


def test_missing_folder_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*/none\.csv"):
        read_rows(tmp_path / "none.csv", ["a"])
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path, ["a"])
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"'\.xlsx' is not a known kind"):
        read_rows(tmp_path / "a.xlsx", ["a"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("a.jsonl", b"\n \n"), ("a.csv", b"a,b\n"), ("a.tsv", b"a\tb\n\n")],
)
def test_no_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(tmp_path / name, ["a"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n{"a": }\n', "line 2 is not JSON: Expecting value at column 7"),
        (b'{"a": 1}\n\n[1]\n', "line 3 is a JSON list, not an object"),
        (b'{"a": 1}\n"x"\n', "line 2 is a JSON str"),
        (b'{"a": "\xff"}\n', "line 1 is not UTF-8"),
        (b'{"a": 1}\n{"b": 1}\n', "line 2 has no column 'a'; available: 'b'"),
        (b'{"a": ' + b"[" * 100_000, "line 1 holds JSON that is too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1 holds JSON that is too deep or too large"),
    ],
)
def test_jsonl_faults_name_the_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        read_rows(tmp_path / "a.jsonl", ["a"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, its header has 2"),
        (b"a,b\n1\n", "line 2 has 1 fields"),
        (b'a,b\n1,"2\n', "near line 2, is not CSV"),
        (b"a,b,a\n1,2,3\n", "column 'a' more than once"),
        (b"a,b\n\xff,2\n", "not UTF-8"),
        (b"", "no columns 'a', 'b'; available: none"),
    ],
)
def test_csv_faults(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_rows(tmp_path / "a.csv", ["a", "b"])


def test_byte_order_marks_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa\n1\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "1"}\n')
    assert read_rows(tmp_path / "a.csv", ["a"]) == read_rows(tmp_path / "a.jsonl", ["a"])


def test_very_long_field(tmp_path: Path) -> None:
    """The csv module alone stops at 131,072 characters."""
    limit = csv.field_size_limit()
    write_csv(tmp_path / "a.csv", [{"a": "word " * 100_000}])
    assert len(str(read_rows(tmp_path / "a.csv", ["a"])[0]["a"])) == 500_000
    assert csv.field_size_limit() == limit


def test_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_rows(tmp_path / "a.parquet", ["a"])


def test_hub_addresses() -> None:
    assert parse_address("hf:owner/name:train") == ("owner/name", None, "train")
    assert parse_address("hf:owner/name:pqa_l:test") == ("owner/name", "pqa_l", "test")
    for address in ("hf:owner/name", "hf:", "hf:a/b/c:train", "hf:../x:train", "hf:o/n:a:b:c"):
        with pytest.raises(DataError, match="does not name a hub data set"):
            parse_address(address)


def test_hub_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importer(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importer)
    with pytest.raises(DataError, match="needs the package 'datasets'") as caught:
        read_rows(Path("hf:owner/name:train"), ["text"])
    assert "sealtune[hub]" in caught.value.hint
