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

from sealtune.data.hub import parse_address
from sealtune.data.readers import read_rows
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
    if suffix == ".tsv" and any("\n" in text for row in rows for text in row.values()):
        with pytest.raises(DataError, match=r"line \d+ opens a quote that it does not close"):
            read_rows(path, ["a", "b"])
        return
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


# ---- hostile cells: the same rows from every format, or the same refusal -------------------------

HOSTILE = (
    "plain", " blanks around ", '"itching all over', 'scar of 12"', '"quoted"', 'a "b" c',
    "a,b;c|d", "a\tb", "a\u2028b", "a\x0cb", "a\x85b", "a\x00b", "\ufeffa", "nan", "NaN", "inf",
    "NULL", "None", "=1+1", "\\N", "'", "''", "a\\", "\U0001f600", "e\u0301", "\u200b", "true",
    "1e5", "007", "a\rb",
)  # fmt: skip


@pytest.mark.parametrize("cell", HOSTILE)
def test_a_hostile_cell_is_the_same_in_every_format(tmp_path: Path, cell: str) -> None:
    rows = [{"a": "x", "b": "one"}, {"a": cell, "b": "two"}, {"a": "y", "b": "three"}]
    for suffix, write in WRITERS.items():
        path = tmp_path / f"rows{suffix}"
        write(path, rows)
        assert read_rows(path, ["a", "b"]) == rows, suffix


@settings(deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"a": TEXT | st.sampled_from(HOSTILE), "b": st.sampled_from(HOSTILE)}
        ),
        min_size=1,
        max_size=6,
    )
)
def test_one_table_in_all_formats(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    breaks = any("\n" in text for row in rows for text in row.values())
    for suffix, write in WRITERS.items():
        path = tmp_path_factory.getbasetemp() / f"table{suffix}"
        write(path, rows)
        if suffix == ".tsv" and breaks:
            continue  # refused: see above
        assert read_rows(path, ["a", "b"]) == rows, suffix


def test_a_quote_in_a_tsv_swallows_no_rows(tmp_path: Path) -> None:
    lines = [f"text {n}\tskin" for n in range(24)]
    lines[4], lines[11] = '"itching all over\tskin', 'scar of 12"\tskin'
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    with pytest.raises(DataError, match="line 6 opens a quote"):
        read_rows(tmp_path / "a.tsv", ["text", "label"])
    lines[4] = "itching all over\tskin"
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    rows = read_rows(tmp_path / "a.tsv", ["text", "label"])
    assert (len(rows), rows[11]["text"]) == (24, 'scar of 12"')


@pytest.mark.parametrize(
    ("header", "words", "hint"),
    [
        ("text,label,,", "column 3 of 4 has no name", "delete the column"),
        ("text , label", "no columns 'text', 'label'; available: 'text ', ' label'", "white space"),
        ("text;label", "no columns 'text', 'label'; available: 'text;label'", "with commas"),
        ("text,label,text", "column 'text' more than once", "rename or delete"),
    ],
)
def test_headers(tmp_path: Path, header: str, words: str, hint: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{header}\n")
    with pytest.raises(DataError, match=words) as caught:
        read_rows(tmp_path / "a.csv", ["text", "label"])
    assert hint in caught.value.hint


def test_two_columns_of_one_name_are_refused_in_every_format(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(["x"]), pyarrow.array(["y"]), pyarrow.array(["z"])],
        ["text", "label", "text"],
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": "y", "text": "z"}\n')
    (tmp_path / "a.csv").write_text("text,label,text\nx,y,z\n")
    (tmp_path / "a.tsv").write_text("text\tlabel\ttext\nx\ty\tz\n")
    for suffix in WRITERS:
        with pytest.raises(DataError, match="the column 'text' more than once"):
            read_rows(tmp_path / f"a{suffix}", ["text", "label"])


def test_bytes_in_a_parquet_text_column(tmp_path: Path) -> None:
    cells = pyarrow.array([b"fine", b"caf\xe9", b"fine"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": cells}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 2: 'text' is not UTF-8 text"):
        read_rows(tmp_path / "a.parquet", ["text"])


def test_every_parquet_text_type(tmp_path: Path) -> None:
    texts = ["heart", "lung"]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        table = pyarrow.table({"text": pyarrow.array(texts, kind)})
        if kind == pyarrow.string():
            table = pyarrow.table({"text": table.column("text").dictionary_encode()})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
        assert [row["text"] for row in read_rows(tmp_path / "a.parquet", ["text"])] == texts


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (pyarrow.array([0, 10**8], pyarrow.int32()), pyarrow.date32()),
        (pyarrow.array([0, 10**17], pyarrow.int64()), pyarrow.date64()),
        (pyarrow.array([0, 2**62], pyarrow.int64()), pyarrow.timestamp("us")),
        (pyarrow.array([0, 2**60], pyarrow.int64()), pyarrow.duration("s")),
    ],
)
def test_a_parquet_date_out_of_range(tmp_path: Path, number: Any, kind: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"when": number.view(kind)}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 2: 'when' is no valid value of the type"):
        read_rows(tmp_path / "a.parquet", ["when"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_bytes_that_are_no_text_name_their_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, [{"a": f"text {n}"} for n in range(5000)])
    lines = path.read_bytes().split(b"\n")
    lines[4000] = lines[4000].replace(b"text", b"t\xe9xt")
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=rf"a\{suffix}, line 4001 is not UTF-8 text"):
        read_rows(path, ["a"])


def test_commas_in_a_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text,label\nx,y\n")
    with pytest.raises(DataError, match="available: 'text,label'") as caught:
        read_rows(tmp_path / "a.tsv", ["text", "label"])
    assert "with commas" in caught.value.hint
