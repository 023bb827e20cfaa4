"""Fill a row into a prompt template. The template's grammar is in ``sealtune.job.template``.

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

from collections.abc import Mapping

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
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and len(self.columns) > 1:
            return str(value)
        if not isinstance(value, str):
            raise DataError(
                f"{where}: '{name}' is {_kind(value)}, not text",
                hint="convert the column to text, or choose another one in data.template",
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: '{name}' holds a broken Unicode character") from error
        return value


def _kind(value: object) -> str:
    """What a value is, in the words of a data file."""
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    if value is None:
        return "missing (null)"
    return names.get(type(value), f"of the kind {type(value).__name__}")
