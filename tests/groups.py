"""Which tests stay with one of several workers (``-n 2``), and which of them begin.

pytest-xdist's own groups hang on its writing a test's id anew, which pytest 9.2 takes no notice of.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# rooms whose files share what takes long to make, and their files that share nothing
_ROOMS: dict[str, tuple[str, ...]] = {
    "tests/deploy": ("test_guide.py", "test_methods.py"),
    "tests/images": (),
}
# what takes longest begins, so that at the end no worker waits for another
_FIRST = ("images", "deploy", "launch", "enclave", "federation", "model", "tuning")


def group_of(nodeid: str) -> str:
    """A file, or a room: ``tests/deploy``."""
    file = nodeid.partition("::")[0]
    *place, name = file.split("/")
    room = "/".join(place[:2])
    return file if name in _ROOMS.get(room, (name,)) else room


def longest_first(items: list[pytest.Item]) -> None:
    """Put the tests of the longest rooms before all others."""

    def place(item: pytest.Item) -> int:
        room = item.nodeid.split("/")[1:2]
        return _FIRST.index(room[0]) if room and room[0] in _FIRST else len(_FIRST)

    items.sort(key=place)


class Groups(LoadScopeScheduling):
    """A group's tests go to one worker; groups and their tests begin in the order of all tests."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
