"""Which attention heads SPF chose: blocks down, heads across, one map for each group.

Neighbouring chosen heads of a block are one mark, and the block's row says which they are: a model
of 80 blocks with 64 heads stays small.

Trust domain: server operator.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from sealtune.report.values import Json

NAMES = {
    "query": "query heads",
    "key-value": "key/value heads",
    "key": "key heads",
    "value": "value heads",
    "qkv": "query, key and value heads",
    "dense": "dense (output) heads",
}
_COLOURS = {"query": "h0", "key-value": "h1", "key": "h1", "value": "h1", "qkv": "h0"}
_SHARED = ("key-value", "key", "value")  # where queries share them, there are fewer
_ROOM = 780.0  # pixels that all maps share, without their block numbers and captions
_LARGEST, _SMALLEST = 18.0, 5.0  # of a cell's side
_DIGIT = 7  # pixels of a digit of a head's number
_MOST = 4096  # heads or blocks; beyond it, a log is wrong


class Row(NamedTuple):
    """One block."""

    block: int
    said: str  # the chosen heads, for a hover title and for whoever cannot see the map
    runs: Sequence[tuple[int, int]]  # (first head, how many) of neighbours that were chosen
    numbered: bool  # whether there is room for its number


class Map(NamedTuple):
    """One group of heads."""

    name: str
    class_: str
    heads: int  # how many there are in a block
    chosen: int  # of all heads in the blocks drawn
    cell: float  # side of a cell in pixels
    ticks: Sequence[int]  # heads whose number stands above
    rows: Sequence[Row]


def maps(split: Json | None) -> list[Map]:
    """The maps of a summary's ``split``; empty without SPF."""
    groups = [(key, count, blocks) for key, count, blocks in _groups(split or {}) if count]
    columns = sum(count for _, count, _ in groups)
    cell = max(_SMALLEST, min(_LARGEST, _ROOM / columns)) if columns else 0.0
    return [_map(key, count, blocks, cell) for key, count, blocks in groups]


def _groups(split: Json) -> Iterator[tuple[str, int, Mapping[int, list[int]]]]:
    """Key, heads in a block, and block -> chosen heads, of each group."""
    by_key: dict[str, dict[int, list[int]]] = {}
    for module, roles in (split.get("heads") or {}).items():
        number = re.search(r"\.(\d{1,4})\.", f".{module}.")
        for key, heads in roles.items() if number else ():
            block = int(number.group(1)) if number else 0
            by_key.setdefault(key, {})[block] = [head for head in heads if head < _MOST]
    order = list(NAMES)
    for key in sorted(by_key, key=lambda k: order.index(k) if k in order else 9):
        seen = max((head + 1 for heads in by_key[key].values() for head in heads), default=0)
        stated = split["key_value_heads" if key in _SHARED else "query_heads"] or 0
        yield key, max(seen, stated if stated <= _MOST else 0), dict(sorted(by_key[key].items()))


def _map(key: str, count: int, blocks: Mapping[int, list[int]], cell: float) -> Map:
    name = NAMES.get(key, key)
    rows_apart, heads_apart = _every(cell, 13), _every(cell, _DIGIT * len(str(count)) + 5)
    rows = [
        Row(
            block,
            f"block {block}, {name}: {', '.join(map(str, heads)) or 'none'} "
            f"({len(heads)} of {count})",
            list(_runs(heads)),
            i % rows_apart == 0,
        )
        for i, (block, heads) in enumerate(blocks.items())
    ]
    chosen = sum(map(len, blocks.values()))
    ticks = range(0, count, heads_apart)
    return Map(name, _COLOURS.get(key, "h2"), count, chosen, cell, ticks, rows)


def _runs(heads: Sequence[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(heads), lambda pair: pair[1] - pair[0]):
        numbers = [head for _, head in run]
        yield numbers[0], len(numbers)


def _every(cell: float, room: float) -> int:
    """Label each of this many cells, so that labels have ``room``."""
    return next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, _MOST) if n * cell >= room or n == _MOST)
