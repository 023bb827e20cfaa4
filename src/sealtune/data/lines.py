"""Lines of a text file: what stands between two line feeds, whatever else is in it.

U+2028, form feed and U+0085 are characters like any other; ``str.splitlines`` would cut there.

Trust domain: client enclave; data owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sealtune.errors import DataError

_BOM = b"\xef\xbb\xbf"


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line with where it stands, such as ``notes.txt, line 3``.

    A byte order mark at the start is dropped, and each line's end: a line feed, or carriage return
    and line feed.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                where = f"{path}, line {number}"
                line = raw.removeprefix(_BOM) if number == 1 else raw
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{where} is not UTF-8 text", hint="save the file as UTF-8"
                    ) from error
                yield where, text.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
