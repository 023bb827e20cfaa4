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
        secrets: names of its private keys and data files.
        found: how many different texts of other sites lie anywhere in its folder.
        of: how many there are.
    """

    host: Host
    traffic: Traffic
    secrets: tuple[str, ...]
    found: int
    of: int


def look(group: Consortium) -> list[Seen]:
    """Look into every host's folder."""
    texts = {site: texts_of(group.folder(site)) for site in group.sites}
    seen = []
    for host in group.hosts:
        others = set().union(*(own for site, own in texts.items() if site != host.name))
        found = count(others, contents(host.folder))
        names = sorted(path.name for path in host.folder.iterdir() if is_secret(path))
        seen.append(Seen(host, host.traffic(), tuple(names), found, len(others)))
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


def is_secret(path: Path) -> bool:
    """Whether a file is what its host shows to nobody."""
    return path.name.endswith(".key") or path.name in ("train.jsonl", "test.jsonl")
