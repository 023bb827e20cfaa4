"""Read rows from JSON Lines, CSV, Parquet or a hub data set, checked for the columns in use.

Rows are dicts with just the asked columns; they are numbered from 1, in the order of the file.
Every fault is a DataError that names file, row (or line) and the remedy; no message repeats the
contents of a row, since logs are less protected than data.

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sealtune.data.lines import read_lines
from sealtune.errors import DataError
from sealtune.job.load import SUFFIXES, is_hub_data

Row = dict[str, object]

MAX_FIELD = 1 << 30  # characters in one CSV field; the csv module's own limit of 128 Ki is too low


def read_rows(path: Path, columns: Sequence[str]) -> list[Row]:
    """All rows of ``path``, reduced to ``columns``.

    Args:
        path: a ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet`` file, or ``hf:owner/name:split``.
        columns: names that every row must have.

    Raises:
        DataError: missing, unreadable, malformed or empty file, or a column that is not there.
    """
    wanted = list(dict.fromkeys(columns))
    try:
        rows = _read(path, wanted)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path} cannot be read: {reason}") from error
    if not rows:
        raise DataError(f"{path} holds no rows", hint="every site needs at least one row")
    return rows


def _read(path: Path, columns: list[str]) -> list[Row]:
    if is_hub_data(path):
        from sealtune.data.hub import read_hub

        return read_hub(str(path), columns)
    if path.is_dir():
        raise DataError(f"{path} is a folder", hint="name one file")
    if not path.exists():
        raise DataError(f"there is no file {path}", hint="check [data] train and test in the job")
    match path.suffix.lower():
        case ".jsonl":
            return list(_jsonl(path, columns))
        case ".csv":
            return list(_csv(path, columns))
        case ".tsv":
            return list(_tsv(path, columns))
        case ".parquet":
            return _parquet(path, columns)
    raise DataError(
        f"{path}: '{path.suffix}' is not a known kind of file",
        hint=f"convert it to one of {', '.join(SUFFIXES)}",
    )


def check_columns(where: str, columns: Sequence[str], available: Sequence[str]) -> None:
    """Raise a DataError that lists what is there, if one of ``columns`` is not."""
    missing = [name for name in columns if name not in available]
    if missing:
        shown = ", ".join(map(repr, available[:30])) or "none"
        noun = "column" if len(missing) == 1 else "columns"
        raise DataError(
            f"{where} has no {noun} {', '.join(map(repr, missing))}; available: {shown}",
            hint=_why_missing(missing, available),
        )


def _why_missing(missing: Sequence[str], available: Sequence[str]) -> str:
    if any(name.strip() in missing for name in available):
        return "remove the white space around the names in the file's header"
    if len(available) == 1 and any(mark in available[0] for mark in ";|,\t"):
        return "separate the columns with commas (.csv) or tabs (.tsv)"
    return "set data.template and data.label to columns that are there"


def _check_distinct(where: str, names: Sequence[str]) -> None:
    """Raise a DataError if a column has no name, or two have one name."""
    for place, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(
                f"{where}: column {place} of {len(names)} has no name",
                hint="name it in the header, or delete the column",
            )
        if name in names[: place - 1]:
            raise DataError(
                f"{where} has the column {name!r} more than once",
                hint="which of them is meant cannot be known: rename or delete one",
            )


def _jsonl(path: Path, columns: list[str]) -> Iterator[Row]:
    for where, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=partial(_distinct, where))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where} is not JSON: {error.msg} at column {error.colno}",
                hint='each line must be one object, such as {"text": "...", "label": "..."}',
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} holds JSON that is too deep or too large") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{where} is a JSON {type(row).__name__}, not an object",
                hint='each line must be one object, such as {"text": "...", "label": "..."}',
            )
        check_columns(where, columns, list(row))
        yield {name: row[name] for name in columns}


def _distinct(where: str, pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        _check_distinct(where, [name for name, _ in pairs])
    return row


def _csv(path: Path, columns: list[str]) -> Iterator[Row]:
    """RFC 4180: a quoted text may hold commas, quotes and line breaks."""
    with _long_fields(), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            lines = ((f"{path}, line {reader.line_num}", fields) for fields in reader)
            yield from _records(path, columns, lines)
        except UnicodeDecodeError:
            for _ in read_lines(path):  # raises at the line that is not UTF-8
                pass
            raise
        except csv.Error as error:
            raise DataError(f"{path}, near line {reader.line_num}, is not CSV: {error}") from error


def _tsv(path: Path, columns: list[str]) -> Iterator[Row]:
    """One row a line: a quote that does not close on its line would swallow rows and labels."""
    with _long_fields():
        yield from _records(path, columns, map(_tab_separated, read_lines(path)))


def _tab_separated(line: tuple[str, str]) -> tuple[str, list[str]]:
    where, text = line
    try:
        return where, next(csv.reader([text], delimiter="\t", strict=True), [])
    except csv.Error as error:
        raise DataError(
            f"{where} opens a quote that it does not close, or holds a stray line break",
            hint='quote a text that holds quotes, and double them: "a 12"" scar"; '
            "texts with line breaks need .csv or .jsonl",
        ) from error


def _records(
    path: Path, columns: list[str], lines: Iterable[tuple[str, list[str]]]
) -> Iterator[Row]:
    """Rows of a table whose first line names its columns; empty lines do not count."""
    records = iter(lines)
    _, header = next(records, ("", []))
    check_columns(str(path), columns, header)
    _check_distinct(str(path), header)
    places = [header.index(name) for name in columns]
    for where, fields in records:
        if not fields:
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{where} has {len(fields)} fields, its header has {len(header)}",
                hint='put texts that hold a separator or a quote into "quotes"',
            )
        yield dict(zip(columns, (fields[place] for place in places), strict=True))


@contextmanager
def _long_fields() -> Iterator[None]:
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, columns: list[str]) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            check_columns(str(path), columns, names)
            _check_distinct(str(path), names)
            table = file.read(columns=columns)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    values = {name: _values(path, name, table.column(name)) for name in columns}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _values(path: Path, name: str, column: Any) -> list[object]:
    """A column's values; one that Python cannot hold is found in the row where it is."""
    import pyarrow

    found: list[object] = []
    try:
        for value in column:
            found.append(value.as_py())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, row {len(found) + 1}: {name!r} is not UTF-8 text",
            hint="write the column as UTF-8 text",
        ) from error
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path}, row {len(found) + 1}: {name!r} is no valid value of the type {column.type}",
            hint="correct the value, or write the column as text",
        ) from error
    return found
