"""What a split job did, in figures: where it was cut, what came up from the sites, which heads.

    uplink_ratio = bytes up of all sites / (tokens x hidden size x bytes of one value)

so that 1.02 means: 2 % more than the bare activations. Bytes up are all that the sites sent, the
handshakes and the farewell included.

Trust domain: server operator.
"""

from __future__ import annotations

import base64
import binascii
import json
from functools import reduce

from sealtune.report import uploads
from sealtune.report.log import RunLog
from sealtune.report.values import Json, add, number, ratio, table, text, whole

ELEMENT = {"bf16": 2, "int8": 1, "fp32": 4}  # bytes of one value, without int8's scales
_INWARD = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")
_OUTWARD = ("o_proj", "out_proj", "down_proj")
_STEP = 32  # hidden sizes are multiples of it
_LEAST = 500  # tokens below which bytes say too little about one


def facts(log: RunLog) -> Json | None:
    """``summary.json``'s ``split``; ``None`` for a job of another method."""
    if not log.is_split:
        return None
    signed = manifest(log)
    plan = table(log.resolved.get("plan"))
    form = text(log.setting("split", "activations"))
    sites = {site: uploads.of_site(log, site, _rows(signed, site)) for site in log.sites}
    tokens = add(one["tokens"] for one in sites.values())
    sent = add(one["bytes_up"] for one in sites.values())
    width = hidden(log, tokens, sent, form)
    raw = tokens * width * ELEMENT[form] if tokens and width and form in ELEMENT else None
    return {
        "cut": whole(plan.get("cut")),
        "blocks": whole(plan.get("blocks")),
        "activations": form,
        "compute": text(log.setting("split", "compute")),
        "release": text(signed.get("release")),
        "hidden_size": width,
        "sites": sites,
        "samples": add(one["samples"] for one in sites.values()),
        "tokens": tokens,
        "bytes_up": sent,
        "raw_bytes": raw,
        "uplink_ratio": ratio(sent, raw),
        **heads(log),
    }


def manifest(log: RunLog) -> Json:
    """What was signed: the payload of the envelope in ``job.resolved.json``, or an empty object."""
    payload = text(table(log.resolved.get("manifest")).get("payload"))
    try:
        return table(json.loads(base64.b64decode(payload or "", validate=True)))
    except (binascii.Error, ValueError, RecursionError):
        return {}


def hidden(log: RunLog, tokens: float | None, sent: float | None, form: str | None) -> int | None:
    """Values of one token's activations.

    Read off the shapes of the tuned tensors; where none of them tells, off the bytes per token.
    """
    shapes = table(table(log.resolved.get("plan")).get("trainable"))
    for name, shape in shapes.items():
        if isinstance(shape, list) and len(shape) == 2:
            axis = _hidden_axis(name)
            found = None if axis is None else whole(shape[axis])
            if found:
                return found
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
    """The heads that SPF chose: attention module -> group -> their numbers; ``None``: no SPF."""
    event = next((e for e in reversed(list(log.of("heads"))) if e.get("role") == "server"), {})
    chosen: dict[str, dict[str, list[int]]] = {}
    for module, groups in table(event.get("heads")).items():
        for group, numbers in table(groups).items():
            listed = numbers if isinstance(numbers, list) else []
            known = sorted({n for n in map(whole, listed) if n is not None and n >= 0})
            chosen.setdefault(module, {})[group] = known
    return {
        "query_heads": whole(event.get("query_heads")),
        "key_value_heads": whole(event.get("key_value_heads")),
        "heads": chosen or None,
    }


def tuned(log: RunLog) -> str | None:
    """What is trained, in a few words: ``SPF 25 % + LoRA``; ``None``: not known."""
    settings = table(log.job.get("tuning"))
    parts: list[str] = []
    spf = table(settings.get("spf"))
    if spf:
        qkv, dense = number(spf.get("qkv")) or 0.0, number(spf.get("dense")) or 0.0
        same = f"SPF {_share(qkv)}"
        parts.append(same if qkv == dense else f"{same} of QKV and {_share(dense)} of dense")
    if table(settings.get("lora")) or settings.get("method") == "lora":
        parts.append("LoRA")
    return reduce(lambda a, b: f"{a} + {b}", parts) if parts else text(settings.get("method"))


def _share(value: float) -> str:
    return f"{100 * value:.3g}\u00a0%"


def _rows(signed: Json, site: str) -> float | None:
    """Training and test samples of a site, as they were signed."""
    data = table(table(signed.get("data")).get(site))
    return add(whole(data.get(f"{part}_rows")) for part in ("train", "test"))
