"""From labelled texts to ``train.jsonl`` and ``test.jsonl``: clean, distinct, split, described.

Order and split follow from SHA-256 of the texts, so they are the same on every machine and with
every version of Python and numpy.

Trust domain: data owner's machine, before a run.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sealtune.errors import DataError

SEED = "sealtune demo data 1"
TEST_OVER = 1.25  # a group that would take the test set beyond share * this is trained on


@dataclass(frozen=True)
class Item:
    """One labelled text.

    Attributes:
        group: texts of one group never come apart in the split.
        testable: whether the label is good enough to be tested on.
    """

    text: str
    label: str
    group: str
    testable: bool = True


@dataclass(frozen=True)
class Corpus:
    """A finished split."""

    train: list[Item]
    test: list[Item]


def clean(text: str) -> str:
    """Resolve HTML entities and reduce white space to single spaces."""
    return " ".join(html.unescape(text).split())


def letters(text: str) -> str:
    """Letters and digits alone: equal for texts that differ in case, spaces or punctuation only."""
    return "".join(filter(str.isalnum, text.casefold()))


def json_rows(data: bytes, what: str, *keys: str) -> Iterator[tuple[str, ...]]:
    """The texts at ``keys`` in each line of a JSON Lines file.

    Args:
        what: names the file in messages.

    Raises:
        DataError: a line is not an object with text at each key.
    """
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row = json.loads(line)
            values = tuple(row[key] for key in keys)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{what}, line {number}, lacks {' or '.join(keys)}") from error
        if not all(isinstance(value, str) for value in values):
            raise DataError(f"{what}, line {number}, holds something other than text")
        yield values


def distinct(items: Iterable[Item]) -> list[Item]:
    """Drop blank texts, texts that occur with two labels, and repeats (letter case ignored)."""
    labels: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Item] = {}
    for item in items:
        key = item.text.casefold()
        labels[key].add(item.label)
        first.setdefault(key, item)
    return [item for key, item in first.items() if key and len(labels[key]) == 1]


def limit(items: Iterable[Item], most: int | None) -> list[Item]:
    """At most ``most`` items of each label, picked by digest."""
    return [item for same in _by_label(items).values() for item in _shuffled(same)[:most]]


def split(items: Sequence[Item], share: float) -> Corpus:
    """Within each label, move whole groups to the test set until it holds its share.

    Args:
        share: of each label's testable items, for testing.
    """
    train = [item for item in items if not item.testable]
    test: list[Item] = []
    for label, same in _by_label(item for item in items if item.testable).items():
        groups: dict[str, list[Item]] = defaultdict(list)
        for item in same:
            groups[item.group].append(item)
        names = sorted(groups, key=lambda name: _rank(f"{label}\n{name}"))
        held: list[Item] = []
        for name in names:
            fits = len(held) + len(groups[name]) <= max(1, share * TEST_OVER * len(same))
            if fits and len(held) < share * len(same):
                held += groups[name]
            else:
                train += groups[name]
        test += held
    return Corpus(_shuffled(train), _shuffled(test))


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """Write ``train.jsonl`` and ``test.jsonl`` with the keys ``text`` and ``label``."""
    for name, items in (("train", corpus.train), ("test", corpus.test)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for item in items:
                row = {"text": item.text, "label": item.label}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _by_label(items: Iterable[Item]) -> dict[str, list[Item]]:
    labels: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        labels[item.label].append(item)
    return dict(sorted(labels.items()))


def _shuffled(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: _rank(f"{item.label}\n{item.text}"))


def _rank(text: str) -> bytes:
    return hashlib.sha256(f"{SEED}\n{text}".encode()).digest()
