"""Where things that can be made again are kept.

Trust domain: none of its own; the cache holds public files only, and their digests are checked.
"""

from __future__ import annotations

import os
from pathlib import Path

from sealtune.job.storage import home


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
