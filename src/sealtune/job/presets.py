"""Recipes of tuning by name: ``[tuning] preset = "spf-vo"`` stands for the keys below.

A job file's own keys beside it win. Manifests hold the keys, and no name.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Preset = Literal["paper", "spf-vo"]
QKV = ("query", "key", "value")

_LORA = {"rank": 8, "alpha": 16.0}
PRESETS: dict[Preset, dict[str, dict[str, Any]]] = {
    # arXiv 2401.09796: a share of the heads, by the L1 norm of their weights, and LoRA beside it
    "paper": {
        "spf": {**dict.fromkeys(QKV, 0.25), "dense": 0.25, "select": "l1-largest"},
        "lora": {**_LORA, "targets": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    },
    # all values and a few output heads whole; low rank where the rest of a block is
    "spf-vo": {
        "spf": {
            "query": 0.0, "key": 0.0, "value": 1.0, "dense": 0.22,
            "select": "fisher", "warm_steps": 48,
        },
        "lora": {**_LORA, "targets": ["q_proj", "k_proj", "gate_proj", "up_proj", "down_proj"]},
    },
}  # fmt: skip


def with_preset(tuning: Mapping[str, Any]) -> dict[str, Any]:
    """``[tuning]`` with its preset's tables in place of the name; an unknown name stays."""
    rest = dict(tuning)
    if rest.get("preset") not in get_args(Preset):
        return rest
    for name, keys in PRESETS[rest.pop("preset")].items():
        own = rest.get(name)
        if own is None:
            rest[name] = dict(keys)
        elif isinstance(own, Mapping):
            rest[name] = {**keys, **(spelled_out(own) if name == "spf" else own)}
    return rest


def spelled_out(spf: Mapping[str, Any]) -> dict[str, Any]:
    """``[tuning.spf]`` with ``qkv`` as the three shares that it is short for.

    A value that is no share stays, for whoever checks it.

    Raises:
        ValueError: one of the three stands beside it.
    """
    rest = dict(spf)
    share = rest.get("qkv")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        return rest
    if beside := [name for name in QKV if name in rest]:
        raise ValueError(f"has qkv beside {beside[0]}, which it is short for: remove one of them")
    del rest["qkv"]
    return {**dict.fromkeys(QKV, share), **rest}
