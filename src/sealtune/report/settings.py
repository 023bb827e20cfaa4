"""The job's settings that shape the result, for the page.

Trust domain: server operator.
"""

from __future__ import annotations

from sealtune.report.log import RunLog
from sealtune.report.methods import View

_LORA = ("method", "rank", "alpha", "dropout", "targets", "layers")
_KEYS = {
    "job": ("method",),
    "model": ("path", "task"),
    "data": ("template", "max_tokens", "max_test_rows"),
    "sites": ("partition", "alpha"),
    "split": ("cut", "activations", "compute", "checkpointing"),
    "tuning": (*_LORA, "lora", "spf"),
    "protection": ("protect", "integrity_bits", "attestation"),
    "train": ("steps_per_round", "batch_size", "learning_rate", "weight_decay", "eval_batch_size"),
    "network": ("min_sites", "deadline"),
}


def rows(log: RunLog, view: View) -> list[tuple[str, str]]:
    """Dotted key and value of every setting that has one."""
    listed: list[tuple[str, str]] = []
    for section, keys in _KEYS.items():
        for key in keys:
            value = log.setting(section, key)
            if value is None or {section, f"{section}.{key}"} & set(view.method.unused):
                continue
            if section == "tuning" and isinstance(value, dict):  # [tuning.lora], [tuning.spf]
                listed += [
                    (f"tuning.{key}.{inner}", _shown(of_it))
                    for inner, of_it in value.items()
                    if of_it is not None
                ]
            else:
                listed.append((f"{section}.{key}", _shown(value)))
    labels = log.signed.get("labels")
    if isinstance(labels, list) and labels:
        listed.append((f"labels ({len(labels)})", "; ".join(str(label) for label in labels)))
    return listed


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return str(value)
