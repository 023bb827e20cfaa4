"""Text from outside, made harmless for a terminal.

A manifest is shown to somebody who is about to sign it. Escape sequences or right-to-left marks in
it could make the screen say something else than what is signed, so they are spelled out.

Trust domain: every process.
"""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of what an error of a library says, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def printable_lines(text: str, limit: int = 2000) -> str:
    """``text`` with its line breaks, each line made harmless; for messages of several lines."""
    return "\n".join(printable(line, limit) for line in text.split("\n"))


def printable(text: str, limit: int = 200) -> str:
    r"""``text`` on one line: what does not print is escaped as ``\n``, ``\x1b``, ``\u202e``.

    Args:
        text: anything.
        limit: longer text is cut, and its length is told.
    """
    if len(text) > limit:
        return f"{printable(text[:limit], limit)}… ({len(text):,} characters)"
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text
    )
