"""Read rows from JSON Lines, a table or a hub data set, checked for the columns in use.

Rows are dicts with just the asked columns; they are numbered from 1, in the order of the file.
Every fault is a DataError that names file, row (or line) and the remedy; no message repeats the
contents of a row, since logs are less protected than data.

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from sealtune.data.columns import Row, check_columns, check_distinct
from sealtune.data.lines import read_lines
from sealtune.errors import DataError
from sealtune.job.sources import SUFFIXES, is_hub_data
from sealtune.job.storage import reason


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
        raise DataError(f"{path} cannot be read: {reason(error)}") from error
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
        case ".csv" | ".tsv" | ".parquet":
            from sealtune.data.tables import read_table

            return read_table(path, columns)
    raise DataError(
        f"{path}: '{path.suffix}' is not a known kind of file",
        hint=f"convert it to one of {', '.join(SUFFIXES)}",
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
        check_distinct(where, [name for name, _ in pairs])
    return row
