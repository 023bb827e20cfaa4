"""What each host of a consortium has and what it saw, looked up on its disk and on the wire.

Trust domain: operator, after a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sealtune.demo.consortium import MODEL, Consortium
from sealtune.demo.hosts import Host, Traffic


@dataclass(frozen=True)
class Seen:
    """One host.

    Attributes:
        traffic: what its device carried.
        keys: how many private keys lie in its folder.
        rows: whether texts do.
        found: how many different texts of other sites lie anywhere in its folder.
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
        others = set().union(*(own for site, own in texts.items() if site != host.name))
        found = count(others, contents(host.folder))
        keys = len(list(host.folder.glob("*.key")))
        rows = (host.folder / "train.jsonl").is_file()
        seen.append(Seen(host, host.traffic(), keys, rows, found, len(others)))
    return seen


def texts_of(folder: Path) -> set[bytes]:
    """The texts of a site, from the files on its host."""
    texts = set()
    for part in ("train", "test"):
        for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines():
            texts.add(json.loads(line)["text"].encode())
    return texts


def contents(folder: Path) -> Iterator[bytes]:
    """Every file of a host but the public model's."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).parts[0] != MODEL:
            yield path.read_bytes()


def count(texts: set[bytes], places: Iterable[bytes]) -> int:
    """How many of the texts are in any of the places."""
    left = set(texts)
    for place in places:
        left -= {text for text in left if text in place}
    return len(texts) - len(left)
