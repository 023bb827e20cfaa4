"""Which tests stay with one of several workers (``-n 2``), and which of them begin.

pytest-xdist's own groups hang on its writing a test's id anew, which pytest 9.2 takes no notice of.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

_TOGETHER = ("deploy", "images")  # rooms whose tests share what takes long to make


def group_of(nodeid: str) -> str:
    """A file, or a room: ``tests/deploy``."""
    file = nodeid.partition("::")[0]
    room = "/".join(file.split("/")[:2])
    return room if room.removeprefix("tests/") in _TOGETHER else file


class Groups(LoadScopeScheduling):
    """A group's tests go to one worker, in their order."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
