"""The columns that rows must have, whatever file they are read from.

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealtune.errors import DataError

Row = dict[str, object]


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


def check_distinct(where: str, names: Sequence[str]) -> None:
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
