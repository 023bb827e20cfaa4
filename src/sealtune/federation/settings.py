"""The configuration file that each of the engine's programs is given.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn, TypeVar

from sealtune.errors import FederationError
from sealtune.sockets import parse

_MAX = 1 << 20  # bytes
T = TypeVar("T")


class Settings:
    """A small JSON object.

    Args:
        path: its file.

    Raises:
        FederationError: it cannot be read, or is no JSON object of a sensible size; also by every
            method, where what it asks for is missing or something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as stream:
                data = stream.read(_MAX + 1)
            content = json.loads(data) if len(data) <= _MAX else None
        except (OSError, ValueError, RecursionError) as error:
            raise FederationError(f"cannot read {path}: {error}") from error
        if not isinstance(content, dict):
            raise FederationError(f"{path} is no JSON object of at most {_MAX} bytes")
        self._content = content

    def text(self, key: str) -> str:
        """A text that is not empty."""
        return self._value(key, str, "text")

    def path(self, key: str) -> Path:
        """A path."""
        return Path(self.text(key))

    def port(self, key: str) -> int:
        """A TCP port."""
        value = self._value(key, int, "a TCP port")
        return value if 0 < value < 65536 else self._refuse(key, "a TCP port")

    def seconds(self, key: str) -> float:
        """A number of seconds; 0 if there is none."""
        value = self._content.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            self._refuse(key, "a number of seconds")
        return float(value)

    def has(self, key: str) -> bool:
        """Whether it is there."""
        return key in self._content

    def contents(self, key: str) -> str:
        """The text in a file, such as a certificate's."""
        path = self.path(key)
        try:
            with path.open("rb") as stream:
                return stream.read(_MAX).decode("ascii")
        except (OSError, ValueError) as error:
            raise FederationError(f"cannot read {path}: {error}") from error

    def address(self, key: str, *, scheme: str = "") -> str:
        """The address of a socket; ``scheme``: what stands before the value."""
        value = scheme + self.text(key)
        try:
            parse(value)
        except ValueError as error:
            self._refuse(key, f"an address: {error}")
        return value

    def paths(self, key: str) -> dict[str, Path]:
        """Paths by name."""
        value = self._value(key, dict, "an object of paths")
        if not all(isinstance(path, str) for path in value.values()):
            self._refuse(key, "an object of paths")
        return {name: Path(path) for name, path in value.items()}

    def _value(self, key: str, kind: type[T], what: str) -> T:
        value = self._content.get(key)
        return value if type(value) is kind and value else self._refuse(key, what)

    def _refuse(self, key: str, what: str) -> NoReturn:
        raise FederationError(f"{self._path}: {key} should be {what}")
