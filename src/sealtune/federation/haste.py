"""Shorter waits inside Flower 1.41.0, and that version only.

A SuperNode that finds no message sleeps three seconds, one that waits for its ClientApp looks twice
a second, and who asks for a message whose content is still on its way waits a whole second. None of
these can be set from outside. They are constants in private modules, so this module touches them
only in the one version it was written for (a test holds the places); under any other version Flower
keeps its own pace, and everything works as before, some three seconds a message slower.

Trust domain: network engine (untrusted).
"""

from __future__ import annotations

import time
from importlib import metadata
from types import SimpleNamespace

VERSION = "1.41.0"
NODE_WAITS = {3: 0.25, 0.5: 0.1}  # seconds: Flower's sleep in the SuperNode's loop -> ours
PULL_BACKOFF = 0.1  # seconds, instead of 1, before content that is on its way is asked for again


def known() -> bool:
    """Whether this is the version of Flower whose waits are known."""
    return metadata.version("flwr") == VERSION


def hasten_supernode() -> None:
    """Shorten the waits of the SuperNode's loop in this process."""
    if not known():
        return
    from flwr.supernode import start_client_internal

    def sleep(seconds: float) -> None:
        time.sleep(NODE_WAITS.get(seconds, seconds))

    start_client_internal.time = SimpleNamespace(sleep=sleep)
    hasten_pulls()


def hasten_pulls() -> None:
    """Shorten the wait for content that is still on its way, in this process."""
    if not known():
        return
    from flwr.supercore.inflatable import inflatable_utils

    inflatable_utils.pull_objects.__kwdefaults__["initial_backoff"] = PULL_BACKOFF
