"""What each site of a split job sent up: chunks, tokens and bytes, each chunk counted once.

A site says ``uploaded`` when it has made a chunk, the server ``upload`` when it has taken it in. A
chunk whose message was lost is made again: it counts when the server has it, and once. Bytes are
those of every message, the lost ones' too as far as they came.

Trust domain: server operator.
"""

from __future__ import annotations

from markupsafe import Markup

from sealtune.report import numbers
from sealtune.report.bars import Bar, bars
from sealtune.report.log import RunLog
from sealtune.report.values import Json, add, ratio, whole

RAW_NAMES = {"bf16": "2 bytes a value", "int8": "1 byte a value", "fp32": "4 bytes a value"}


def of_site(log: RunLog, site: str, rows: float | None) -> Json:
    """One site's upload.

    Args:
        rows: samples that it has according to the manifest.
    """
    taken, of = _taken(log, site)
    made = _made(log, site)
    complete = of is not None and taken >= of
    return {
        "samples": rows if complete else None,
        "tokens": add(tokens for chunk, tokens in made.items() if chunk <= taken),
        "chunks": taken,
        "chunks_planned": of,
        "bytes_up": site_bytes(log, site)["up"],
    }


def site_bytes(log: RunLog, site: str) -> Json:
    """Sealed bytes of one site, all attempts: ``up`` to the server, ``down`` from it.

    The server's count for a site grows over the upload and starts anew at the end and in a resumed
    run; between upload and end nothing is sent.
    """
    up: list[float | None] = []
    down: list[float | None] = []
    for attempt in log.attempts or (log.events,):
        counts: list[int] = []
        back: list[int] = []
        for event in attempt:
            if event.get("event") == "upload" and event.get("site") == site:
                counts.append(whole(event.get("bytes")) or 0)
            elif event.get("event") == "round":
                entry = log.entry(event, site)
                counts.append(whole(entry.get("bytes_up")) or 0)
                back.append(whole(entry.get("bytes_down")) or 0)
        up.append(max(counts, default=None))
        down.append(max(back, default=None))
    end = log.entry(log.final, site)
    return {
        "up": add([*up, whole(end.get("bytes_up"))]),
        "down": add([*down, whole(end.get("bytes_down"))]),
    }


def _taken(log: RunLog, site: str) -> tuple[int, int | None]:
    """Chunks of a site that the server has, and how many there are altogether."""
    last: Json = {}
    for event in log.of("upload"):
        if event.get("site") == site and event.get("role") == "server":
            last = event
    return whole(last.get("chunk")) or 0, whole(last.get("of"))


def _made(log: RunLog, site: str) -> dict[int, int]:
    """Tokens of each chunk, by its number from 1; the last word on a chunk counts."""
    found: dict[int, int] = {}
    for event in log.of("uploaded"):
        chunk, tokens = whole(event.get("chunk")), whole(event.get("tokens"))
        if event.get("role") == f"client:{site}" and chunk is not None and tokens is not None:
            found[chunk] = tokens
    return found


def rows(split: Json) -> list[Json]:
    """Rows of the table: every site, then all together."""
    width = ratio(split["raw_bytes"], split["tokens"])
    found = [
        {
            "name": site,
            "samples": one["samples"],
            "tokens": one["tokens"],
            "chunks": f"{one['chunks']} of {one['chunks_planned'] or '?'}",
            "bytes": one["bytes_up"],
            "per_token": ratio(one["bytes_up"], one["tokens"]),
            "raw": one["tokens"] * width if one["tokens"] and width else None,
            "total": False,
        }
        for site, one in split["sites"].items()
    ]
    if len(found) > 1:
        found.append(
            {
                "name": "all sites",
                "samples": split["samples"],
                "tokens": split["tokens"],
                "chunks": "",
                "bytes": split["bytes_up"],
                "per_token": ratio(split["bytes_up"], split["tokens"]),
                "raw": split["raw_bytes"],
                "total": True,
            }
        )
    return [row | {"ratio": ratio(row["bytes"], row["raw"])} for row in found]


def chart(split: Json) -> Markup | None:
    """Bars of what was sent, each above the bare activations of the same tokens."""
    drawn: list[Bar] = []
    for row in rows(split):
        if row["bytes"] is None or row["total"]:
            continue
        drawn.append(Bar(row["name"], row["bytes"], numbers.size(row["bytes"]), "plain"))
        if row["raw"] is not None:
            drawn.append(Bar("", row["raw"], numbers.size(row["raw"]), "base", "bare activations"))
    return bars(drawn) if drawn else None
