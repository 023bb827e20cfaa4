"""What each host of a consortium has and what it saw, looked up on its disk and on the wire.

Trust domain: operator, after a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sealtune.demo.consortium import MODEL, Consortium
from sealtune.demo.hosts import Host, Traffic

_WORD = 8  # bytes
_TELLING = 12  # bytes; what is shorter is found anywhere, by chance
_PUBLIC = {MODEL, "backbones"}  # folders of the public model, and of its int8 form


@dataclass(frozen=True)
class Seen:
    """One host.

    Attributes:
        traffic: what its device carried.
        keys: how many private keys lie in its folder.
        rows: whether texts do.
        found: how many different texts of other sites lie anywhere in its folder, and in none of
            its own.
        of: how many there are.
    """

    host: Host
    traffic: Traffic
    keys: int
    rows: bool
    found: int
    of: int

    @property
    def private(self) -> str:
        """What it has that it shows to nobody."""
        keys = [f"{self.keys} key{'s' if self.keys > 1 else ''}"] if self.keys else []
        return ", ".join([*keys, *(["texts"] if self.rows else [])]) or "nothing"


def look(group: Consortium) -> list[Seen]:
    """Look into every host's folder."""
    texts = {site: texts_of(group.folder(site)) for site in group.sites}
    seen = []
    for host in group.hosts:
        own = texts.get(host.name, set())
        others = set().union(*texts.values()) - own
        others = {text for text in others if not any(text in one for one in own)}
        found = count(others, contents(host.folder))
        keys = len(list(host.folder.glob("*.key")))
        rows = (host.folder / "train.jsonl").is_file()
        seen.append(Seen(host, host.traffic(), keys, rows, found, len(others)))
    return seen


def texts_of(folder: Path) -> set[bytes]:
    """The texts of a site that tell something, from the files on its host."""
    texts = set()
    for part in ("train", "test"):
        for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
            texts.add(json.loads(line)["text"].encode())
    return {text for text in texts if len(text) >= _TELLING}


def contents(folder: Path) -> Iterator[bytes]:
    """Every file of a host but the public model's."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _PUBLIC.isdisjoint(path.relative_to(folder).parts):
            yield path.read_bytes()


def count(texts: set[bytes], places: Iterable[bytes]) -> int:
    """How many of the texts are in any of the places.

    Thousands of texts are looked for in megabytes, so places are gone through by the words of eight
    bytes with which texts begin.
    """
    by_start: dict[int, list[bytes]] = {}
    for text in texts:
        if len(text) >= _WORD:
            by_start.setdefault(int.from_bytes(text[:_WORD], "little"), []).append(text)
    starts = np.array(sorted(by_start), dtype=np.uint64)
    short = {text for text in texts if len(text) < _WORD}
    found = set[bytes]()
    for place in places:
        found |= {text for text in short if text in place}
        for shift in range(min(_WORD, len(place))):
            words = np.frombuffer(place, "<u8", (len(place) - shift) // _WORD, shift)
            for at in np.flatnonzero(np.isin(words, starts)):
                begin = shift + _WORD * int(at)
                same = by_start[int(words[at])]
                found |= {text for text in same if place.startswith(text, begin)}
    return len(found)
