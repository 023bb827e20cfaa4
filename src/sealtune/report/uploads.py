"""What each site of a split job sent up: chunks, tokens and bytes, each chunk counted once.

A site says ``uploaded`` when it has made a chunk, the server ``upload`` when it has taken it in. A
chunk whose message was lost is made again: it counts when the server has it, and once. Bytes are
those of every message, the lost ones' too as far as they came.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.job.events import Round
from sealtune.job.training_events import Upload, Uploaded
from sealtune.report.log import RunLog, entry
from sealtune.report.values import Json, add, ratio

RAW_NAMES = {"bf16": "2 bytes a value", "int8": "1 byte a value", "fp32": "4 bytes a value"}


def of_site(log: RunLog, site: str, rows: float | None) -> Json:
    """One site's upload.

    Args:
        rows: samples that it has according to the manifest.
    """
    received = [event for event in log.of(Upload, "server") if event.site == site]
    chunks, planned = (received[-1].chunk, received[-1].of) if received else (0, None)
    made = {event.chunk: event.tokens for event in log.of(Uploaded, f"client:{site}")}
    complete = planned is not None and chunks >= planned
    return {
        "samples": rows if complete else None,
        "tokens": add(tokens for chunk, tokens in made.items() if chunk <= chunks),
        "chunks": chunks,
        "chunks_planned": planned,
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
        rounds = [entry(event, site) for event in attempt if type(event) is Round]
        sent = [e.bytes for e in attempt if isinstance(e, Upload) and e.site == site]
        sent += [own.bytes_up or 0 for own in rounds]
        up.append(max(sent, default=None))
        down.append(max((own.bytes_down or 0 for own in rounds), default=None))
    end = entry(log.final, site)
    return {"up": add([*up, end.bytes_up]), "down": add([*down, end.bytes_down])}


def rows(split: Json) -> list[Json]:
    """Rows of the table: every site, then all together."""
    width = ratio(split["raw_bytes"], split["tokens"])
    listed = [
        {
            "name": site,
            **{key: upload[key] for key in ("samples", "tokens", "bytes_up")},
            "chunks": f"{upload['chunks']} of {upload['chunks_planned'] or '?'}",
            "raw": upload["tokens"] * width if upload["tokens"] and width else None,
            "total": False,
        }
        for site, upload in split["sites"].items()
    ]
    if len(listed) > 1:
        figures = {key: split[key] for key in ("samples", "tokens", "bytes_up")}
        raw = split["raw_bytes"]
        listed.append({"name": "all sites", **figures, "chunks": "", "raw": raw, "total": True})
    return [
        row
        | {
            "per_token": ratio(row["bytes_up"], row["tokens"]),
            "ratio": ratio(row["bytes_up"], row["raw"]),
        }
        for row in listed
    ]
