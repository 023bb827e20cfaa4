"""Draw which attention heads SPF chose: blocks down, heads across, one map for each group.

Each map is an SVG of its own, so that maps stand side by side where the page is wide and below each
other where it is not. A block's chosen heads are one path, and its hover title names them: a model
of 80 blocks with 64 heads stays small.

Trust domain: server operator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sealtune.report.numbers import count, percent
from sealtune.report.svg import join, tag, text_width
from sealtune.report.values import Json, ratio

NAMES = {
    "query": "query heads",
    "key-value": "key/value heads",
    "qkv": "query, key and value heads",
    "dense": "dense (output) heads",
}
_ROOM = 780.0  # width that all maps share, without their block numbers and captions
_LARGEST, _SMALLEST = 18.0, 5.0  # of a cell's side
_TOP, _RIGHT = 20.0, 6.0  # room for the numbers of the heads
_FONT = 11
_MOST = 4096  # heads or blocks; beyond it, a log is wrong


@dataclass(frozen=True)
class Group:
    """One map.

    Attributes:
        key: ``query``, ``key-value``, ``qkv`` or ``dense``.
        heads: how many there are in a block.
        chosen: block -> numbers of its chosen heads.
    """

    key: str
    heads: int
    chosen: Mapping[int, Sequence[int]]

    @property
    def share(self) -> float | None:
        """Chosen heads, of all heads in the blocks drawn."""
        return ratio(self.total, self.heads * len(self.chosen))

    @property
    def total(self) -> int:
        """Number of chosen heads."""
        return sum(map(len, self.chosen.values()))


def groups(split: Json) -> list[Group]:
    """The maps of a summary's ``split``; empty without SPF."""
    by_key: dict[str, dict[int, list[int]]] = {}
    for module, roles in (split["heads"] or {}).items():
        number = re.search(r"\.(\d{1,4})\.", f".{module}.")
        if number is None:
            continue
        for key, heads in roles.items():
            by_key.setdefault(key, {})[int(number.group(1))] = [h for h in heads if h < _MOST]
    stated = {"key-value": split["key_value_heads"]}
    order = list(NAMES)
    found: list[Group] = []
    for key in sorted(by_key, key=lambda k: order.index(k) if k in order else 9):
        chosen = dict(sorted(by_key[key].items()))
        seen = max((h + 1 for heads in chosen.values() for h in heads), default=0)
        known = stated.get(key, split["query_heads"]) or 0
        count_ = max(seen, known if known <= _MOST else 0)
        if count_:
            found.append(Group(key, count_, chosen))
    return found


def draw(split: Json) -> Markup | None:
    """The maps side by side; ``None`` without SPF."""
    found = groups(split)
    if not found:
        return None
    columns = sum(group.heads for group in found)
    cell = max(_SMALLEST, min(_LARGEST, _ROOM / columns))
    return tag("div", *(_figure(group, cell) for group in found), class_="heads")


def _figure(group: Group, cell: float) -> Markup:
    name = NAMES.get(group.key, group.key)
    said = f"{count(group.total)} of {count(group.heads * len(group.chosen))}"
    caption = tag("figcaption", name, " ", tag("small", f"{said} ({percent(group.share, 0)})"))
    return tag("figure", caption, _map(group, cell, name))


def _map(group: Group, cell: float, name: str) -> Markup:
    blocks = list(group.chosen)
    left = text_width("block", _FONT) + 10
    width, height = group.heads * cell, len(blocks) * cell
    ground = tag("rect", x=left, y=_TOP, width=width, height=height, class_="ground")
    rows = [_row(group, block, left, _TOP + i * cell, cell, name) for i, block in enumerate(blocks)]
    full = (left + width + _RIGHT, _TOP + height + 4)
    hover = tag("title", f"Chosen {name} by block")
    parts = [hover, ground, *rows, _lines(group, left, cell), _numbers(group, left, cell)]
    return tag(
        "svg", *parts, class_=f"plot heat {_colour(group.key)}", role="img",
        viewBox=f"0 0 {full[0]:.0f} {full[1]:.0f}", style=f"width:{full[0]:.0f}px",
    )  # fmt: skip


def _row(group: Group, block: int, left: float, top: float, cell: float, name: str) -> Markup:
    """A block's chosen heads, and an invisible strip that makes the whole row say what they are."""
    heads = group.chosen[block]
    listed = ", ".join(map(str, heads)) or "none"
    hover = tag("title", f"block {block}, {name}: {listed} ({len(heads)} of {group.heads})")
    cells = "".join(
        f"M{left + h * cell:.1f} {top:.1f}h{cell:.1f}v{cell:.1f}h-{cell:.1f}z" for h in heads
    )
    strip = tag("rect", x=left, y=top, width=group.heads * cell, height=cell, class_="strip")
    return tag("g", hover, strip, *([tag("path", d=cells, class_="cell")] if cells else []))


def _lines(group: Group, left: float, cell: float) -> Markup:
    """The grid between cells, over everything, so that neighbours stay apart."""
    bottom, right = _TOP + len(group.chosen) * cell, left + group.heads * cell
    down = "".join(
        f"M{left + i * cell:.1f} {_TOP:.0f}V{bottom:.1f}" for i in range(group.heads + 1)
    )
    across = "".join(
        f"M{left:.1f} {_TOP + i * cell:.1f}H{right:.1f}" for i in range(len(group.chosen) + 1)
    )
    return tag("path", d=down + across, class_="between")


def _numbers(group: Group, left: float, cell: float) -> Markup:
    """Head numbers above, block numbers on the left, as many as there is room for."""
    blocks = list(group.chosen)
    parts = [tag("text", "block", x=0, y=13, class_="tick")]
    every = _every(cell, text_width(str(group.heads), _FONT) + 5)
    for head in range(0, group.heads, every):
        at = left + (head + 0.5) * cell
        parts.append(tag("text", str(head), x=at, y=13, class_="tick", text_anchor="middle"))
    every = _every(cell, 13)
    for i, block in enumerate(blocks):
        if i % every == 0:
            y = _TOP + (i + 0.5) * cell + 4
            label = tag("text", str(block), x=left - 6, y=y, class_="tick", text_anchor="end")
            parts.append(label)
    return join(parts)


def _every(cell: float, room: float) -> int:
    """Label each of this many cells, so that labels have ``room``."""
    return next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 4096) if n * cell >= room or n == 4096)


def _colour(key: str) -> str:
    return {"query": "h0", "key-value": "h1", "qkv": "h0"}.get(key, "h2")
