"""Read rows from CSV, TSV and Parquet files (``sealtune.data.readers``).

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sealtune.data.columns import Row, check_columns, check_distinct
from sealtune.data.lines import read_lines
from sealtune.errors import DataError

MAX_FIELD = 1 << 30  # characters in one CSV field; the csv module's own limit of 128 Ki is too low


def read_table(path: Path, columns: list[str]) -> list[Row]:
    """All rows of a ``.csv``, ``.tsv`` or ``.parquet`` file, reduced to ``columns``.

    Raises:
        DataError: malformed, or a column is not there.
    """
    match path.suffix.lower():
        case ".csv":
            return list(_csv(path, columns))
        case ".tsv":
            return list(_tsv(path, columns))
    return _parquet(path, columns)


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
    check_distinct(str(path), header)
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
            check_distinct(str(path), names)
            table = file.read(columns=columns)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    values = {name: _values(path, name, table.column(name)) for name in columns}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _values(path: Path, name: str, column: Any) -> list[object]:
    """A column's values; one that Python cannot hold is found in the row where it is."""
    import pyarrow

    values: list[object] = []
    try:
        for value in column:
            values.append(value.as_py())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, row {len(values) + 1}: {name!r} is not UTF-8 text",
            hint="write the column as UTF-8 text",
        ) from error
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path}, row {len(values) + 1}: {name!r} is no valid value of the type {column.type}",
            hint="correct the value, or write the column as text",
        ) from error
    return values
