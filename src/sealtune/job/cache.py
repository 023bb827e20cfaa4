"""Where a user's files are kept: the home folder, what can be made again, what is remembered.

Trust domain: none of its own; the cache holds public files only, and their digests are checked.
"""

from __future__ import annotations

import os
from pathlib import Path

from sealtune.errors import StorageError


def cache_folder() -> Path:
    """``$SEALTUNE_CACHE``, or ``sealtune`` in the user's cache folder.

    Raises:
        StorageError: this user has no home folder, and no variable names another.
    """
    explicit = os.environ.get("SEALTUNE_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or home() / ".cache"
    return Path(base) / "sealtune"


def state_folder() -> Path:
    """``sealtune`` in the user's folder of things to remember: ``$XDG_STATE_HOME``.

    Raises:
        StorageError: this user has no home folder, and the variable names no other.
    """
    base = os.environ.get("XDG_STATE_HOME") or home() / ".local" / "state"
    return Path(base) / "sealtune"


def home() -> Path:
    """The user's home folder.

    Raises:
        StorageError: this user has none.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise StorageError(
            "this user has no home folder to keep files in",
            hint="set HOME, or XDG_DATA_HOME, XDG_CACHE_HOME and XDG_STATE_HOME, to one of yours",
        ) from error
