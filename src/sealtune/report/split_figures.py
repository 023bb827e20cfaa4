"""What a split job did, in figures: where it was cut, what came up from the sites, which heads.

    uplink_ratio = bytes up of all sites / (tokens x hidden size x bytes of one value)

so that 1.02 means: 2 % more than the bare activations. Bytes up are all that the sites sent, the
handshakes and the release included, and lost messages as far as they came.

A site says ``uploaded`` when it has made a chunk, the server ``upload`` when it has taken it in. A
chunk whose message was lost is made again: it counts when the server has it, and once.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.job.events import Round
from sealtune.job.training_events import Heads, Upload, Uploaded
from sealtune.report.log import RunLog, entry
from sealtune.report.values import Json, add, number, ratio, table, text, whole

ELEMENT = {"bf16": 2, "int8": 1, "fp32": 4}  # bytes of one value, without int8's scales
_INWARD = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")
_OUTWARD = ("o_proj", "out_proj", "down_proj")
_PROJECTIONS = ("query", "key", "value", "dense")
_STEP = 32  # hidden sizes are multiples of it
_LEAST = 500  # tokens below which bytes say too little about one


def figures(log: RunLog) -> Json:
    """``summary.json``'s ``split``."""
    form = text(log.setting("split", "activations"))
    sites = {site: _upload(log, site, _rows(log, site)) for site in log.sites}
    tokens = add(upload["tokens"] for upload in sites.values())
    sent = add(upload["bytes_up"] for upload in sites.values())
    width = hidden(log, tokens, sent, form)
    raw = tokens * width * ELEMENT[form] if tokens and width and form in ELEMENT else None
    return {
        "cut": whole(log.plan.get("cut")),
        "blocks": whole(log.plan.get("blocks")),
        "activations": form,
        "precision": text(log.setting("train", "precision")),
        "release": text(log.signed.get("release")),
        "hidden_size": width,
        "sites": sites,
        "samples": add(upload["samples"] for upload in sites.values()),
        "tokens": tokens,
        "bytes_up": sent,
        "raw_bytes": raw,
        "uplink_ratio": ratio(sent, raw),
        **heads(log),
    }


def _upload(log: RunLog, site: str, rows: float | None) -> Json:
    """One site's upload; ``rows`` are the samples that it has according to the manifest."""
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


def uploads(split: Json) -> list[Json]:
    """Each site's upload with its name, and the bytes of the bare activations (``raw_bytes``)."""
    width = ratio(split["raw_bytes"], split["tokens"])
    return [
        {
            "name": site,
            **own,
            "raw_bytes": own["tokens"] * width if own["tokens"] and width else None,
        }
        for site, own in split["sites"].items()
    ]


def hidden(log: RunLog, tokens: float | None, sent: float | None, form: str | None) -> int | None:
    """Values of one token's activations.

    Read off the shapes of the tuned tensors; where none of them tells, off the bytes per token.
    """
    for name, shape in table(log.plan.get("trainable")).items():
        if isinstance(shape, list) and len(shape) == 2:
            axis = _hidden_axis(name)
            width = None if axis is None else whole(shape[axis])
            if width:
                return width
    if not sent or not tokens or tokens < _LEAST or form not in ELEMENT:
        return None
    ids = 4 * tokens if log.setting("model", "task") == "causal-lm" else 0
    values = (sent - ids) / tokens / ELEMENT[form]
    return int(values // _STEP * _STEP) or None


def _hidden_axis(name: str) -> int | None:
    """Which axis of a tuned tensor's shape is the hidden size, by its name."""
    if name.endswith("score.weight"):
        return 1
    parts = name.split(".")
    if any(part in _INWARD for part in parts) and name.endswith(("lora_A.weight", "spf.delta")):
        return 1
    if any(part in _OUTWARD for part in parts) and name.endswith(("lora_B.weight", "spf.delta")):
        return 0
    return None


def heads(log: RunLog) -> Json:
    """The heads that SPF chose: attention module -> group -> their numbers; ``None``: not known.

    Those that follow from data stay in the enclave (``withheld``), unless the manifest says not.
    """
    event = log.last(Heads)
    spf = table(table(log.job.get("tuning")).get("spf"))
    by_data = text(spf.get("select")) in ("gradient", "activation", "fisher")
    chosen = {
        module: {group: sorted(set(numbers)) for group, numbers in groups.items()}
        for module, groups in (event.heads if event else {}).items()
    }
    return {
        "query_heads": event and event.query_heads,
        "key_value_heads": event and event.key_value_heads,
        "heads": chosen or None,
        "heads_withheld": by_data and spf.get("release_heads") is not True,
    }


def tuned(log: RunLog) -> str | None:
    """What is trained, in a few words: ``SPF 25 % + LoRA``; ``None``: not known."""
    settings = table(log.job.get("tuning"))
    parts: list[str] = []
    spf = table(settings.get("spf"))
    if spf:
        parts.append(f"SPF {_shares(spf)}")
    if table(settings.get("lora")) or settings.get("method") == "lora":
        parts.append("DoRA" if table(settings.get("lora")).get("dora") is True else "LoRA")
    if table(settings.get("ptuning")):
        parts.append("P-tuning v2")
    return " + ".join(parts) or text(settings.get("method"))


def _shares(spf: Json) -> str:
    """``25 %`` of all, ``25 % of QKV and 50 % of dense``, or each projection by itself."""
    query, key, value, dense = (number(spf.get(n)) or 0.0 for n in _PROJECTIONS)
    if query == key == value == dense:
        return _share(query)
    every = {"query": query, "key": key, "value": value, "dense": dense}
    if query == key == value:
        every = {"QKV": query, "dense": dense}
    said = [f"{_share(share)} of {name}" for name, share in every.items() if share]
    return " and ".join(filter(None, (", ".join(said[:-1]), *said[-1:])))


def _share(value: float) -> str:
    return f"{100 * value:.3g}\u00a0%"


def _rows(log: RunLog, site: str) -> float | None:
    """Training and test samples of a site, as they were signed."""
    data = table(table(log.signed.get("data")).get(site))
    return add(whole(data.get(f"{part}_rows")) for part in ("train", "test"))
