"""The configuration file that each of the engine's two programs is given.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import json
from pathlib import Path

from sealtune.errors import FederationError

_MAX = 1 << 20  # bytes


class Settings:
    """A small JSON object.

    Args:
        path: its file.

    Raises:
        FederationError: it cannot be read, or is no JSON object of a sensible size.
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
        """A text.

        Raises:
            FederationError: it is missing or empty, or no text.
        """
        value = self._content.get(key)
        if not isinstance(value, str) or not value:
            raise FederationError(f"{self._path}: {key} should be text")
        return value

    def path(self, key: str) -> Path:
        """A path; errors as ``text``."""
        return Path(self.text(key))

    def port(self, key: str) -> int:
        """A TCP port.

        Raises:
            FederationError: it is none.
        """
        value = self._content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
            raise FederationError(f"{self._path}: {key} should be a TCP port")
        return value

    def paths(self, key: str) -> dict[str, Path]:
        """Paths by name.

        Raises:
            FederationError: it is no object of texts.
        """
        value = self._content.get(key)
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise FederationError(f"{self._path}: {key} should be an object of paths")
        return {str(name): Path(text) for name, text in value.items()}
