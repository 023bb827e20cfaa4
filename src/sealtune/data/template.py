"""Fill a row into a prompt template. The template's grammar is in ``sealtune.job.template``.

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal

from sealtune.errors import DataError
from sealtune.job.template import parse_template


class Template:
    """A parsed template.

        Template("{title}: {text}").render({"title": "Hb", "text": "low"}, "row 1")  # "Hb: low"

    Raises:
        ValueError: the template is malformed (a loaded job's never is).
    """

    def __init__(self, template: str) -> None:
        self._parts = parse_template(template)
        self.columns = tuple(dict.fromkeys(p.text for p in self._parts if p.is_column))

    def render(self, row: Mapping[str, object], where: str) -> str:
        """The prompt for ``row``; values are inserted as they are and never interpreted.

        A lone column must hold text; beside others, numbers are fine too.

        Args:
            where: file and row for messages.

        Raises:
            DataError: a column is missing, is no text, is not valid Unicode, or all are blank.
        """
        values = {name: self._text(name, row, where) for name in self.columns}
        if not any(value.strip() for value in values.values()):
            named = " and ".join(f"'{name}'" for name in self.columns)
            raise DataError(
                f"{where}: {named} {'is' if len(values) == 1 else 'are'} blank",
                hint="fill the row in or delete it: a text of no tokens can be neither trained "
                "on nor classified",
            )
        return "".join(values[p.text] if p.is_column else p.text for p in self._parts)

    def _text(self, name: str, row: Mapping[str, object], where: str) -> str:
        if name not in row:
            available = ", ".join(map(repr, row)) or "none"
            raise DataError(f"{where} has no column '{name}'; available: {available}")
        value = row[name]
        if len(self.columns) > 1 and is_number(value):
            return str(value)
        kind = kind_of(value)
        if kind.startswith("missing"):
            raise DataError(
                f"{where}: '{name}' is {kind}", hint="fill the value in, or delete the row"
            )
        if not isinstance(value, str):
            raise DataError(
                f"{where}: '{name}' is {kind}, not text",
                hint="convert the column to text, or choose another one in data.template",
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: '{name}' holds a broken Unicode character") from error
        return value


def is_number(value: object) -> bool:
    """Whether a cell is a number that can be written out; NaN and infinity are none."""
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def kind_of(value: object) -> str:
    """What a cell is, in the words of a data file."""
    if value is None:
        return "missing (null)"
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return f"missing ({value})"
    names = {
        bool: "true or false", int: "a whole number", float: "a number with a fraction",
        Decimal: "a decimal number", list: "a list", dict: "an object", bytes: "bytes",
        date: "a date", datetime: "a date and time",
    }  # fmt: skip
    if isinstance(value, str):
        return "text" if value.strip() else "blank"
    return names.get(type(value), f"of the kind {type(value).__name__}")
