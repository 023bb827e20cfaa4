"""Prompt templates such as ``"{title}: {text}"``: literal text and plain column names, no more.

Python's own ``str.format`` would follow ``{row.__class__}`` or ``{row[0]}`` and so let a job file
reach into the program. Here braces may hold nothing but a column's name, and rendering (see
``sealtune.data.template``) joins strings without ``format``.

Trust domain: every process; pure functions of their arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COLUMN = re.compile(r"[^\W\d][\w -]*")  # letters, digits, underscores, inner spaces and hyphens
MAX_TEMPLATE = 20_000  # characters
_PIECE = re.compile(r"\{\{|\}\}|\{(?P<column>[^}]*)\}|[{}]|[^{}]+")


@dataclass(frozen=True)
class Part:
    """One piece of a template: literal text, or the name of a column."""

    text: str
    is_column: bool


def parse_template(template: str) -> tuple[Part, ...]:
    """Split ``template`` into its pieces; ``{{`` and ``}}`` stand for single braces.

    Raises:
        ValueError: unbalanced braces, no column at all, or anything but a plain name in braces.
    """
    if len(template) > MAX_TEMPLATE:
        raise ValueError(f"is {len(template)} characters long; at most {MAX_TEMPLATE} are allowed")
    parts: list[Part] = []
    literal = ""
    for piece in _PIECE.finditer(template):
        if piece[0] == "{":
            raise ValueError("has a '{' that is never closed; write '{{' for a plain brace")
        if piece[0] == "}":
            raise ValueError("has a '}' that was never opened; write '}}' for a plain brace")
        if piece["column"] is None:
            literal += piece[0][:1] if piece[0] in ("{{", "}}") else piece[0]
            continue
        if literal:
            parts.append(Part(literal, is_column=False))
            literal = ""
        parts.append(Part(_column(piece["column"]), is_column=True))
    if literal:
        parts.append(Part(literal, is_column=False))
    if not any(part.is_column for part in parts):
        raise ValueError('names no column; write for example "{text}"')
    return tuple(parts)


def _column(name: str) -> str:
    if not COLUMN.fullmatch(name) or name != name.strip():
        raise ValueError(
            f"has {{{name}}}: braces may hold only the plain name of a column "
            "(letters, digits, underscores, hyphens), no dots, brackets or formats"
        )
    return name
