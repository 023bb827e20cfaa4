"""Read rows from JSON Lines, CSV, Parquet or a hub data set, checked for the columns in use.

Rows are dicts with just the asked columns; they are numbered from 1, in the order of the file.
Every fault is a DataError that names file, row (or line) and the remedy; no message repeats the
contents of a row, since logs are less protected than data.

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
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
            return list(_csv(path, columns, ","))
        case ".tsv":
            return list(_csv(path, columns, "\t"))
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
            hint="set data.template and data.label to columns that are there",
        )


def _jsonl(path: Path, columns: list[str]) -> Iterator[Row]:
    for where, line in read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
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


def _csv(path: Path, columns: list[str], delimiter: str) -> Iterator[Row]:
    limit = csv.field_size_limit(MAX_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise DataError(f"{path} has the column {twice[0]!r} more than once")
            check_columns(str(path), columns, header)
            places = [header.index(name) for name in columns]
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num} has {len(fields)} fields, its header "
                        f"has {len(header)}",
                        hint='put texts that hold a comma, quote or line break into "quotes"',
                    )
                yield dict(zip(columns, (fields[place] for place in places), strict=True))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", hint="save the file as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}, near line {reader.line_num}, is not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path, columns: list[str]) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_columns(str(path), columns, list(file.schema_arrow.names))
            rows: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
            return rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
