"""The job's settings that shape the result, for the page: files by name, not by where they lie.

Trust domain: server operator.
"""

from __future__ import annotations

from pathlib import PurePath

from sealtune.report.log import RunLog

_LORA = ("method", "rank", "alpha", "dropout", "targets", "layers")
_KEYS = {
    "job": ("method",),
    "model": ("path", "revision", "task"),
    "data": ("train", "test", "template", "max_tokens", "max_test_rows"),
    "sites": ("partition", "alpha"),
    "split": ("cut", "activations", "compute", "checkpointing"),
    "tuning": (*_LORA, "lora", "spf"),
    "protection": ("protect", "integrity_bits", "attestation"),
    "train": ("steps_per_round", "batch_size", "learning_rate", "weight_decay", "eval_batch_size"),
    "network": ("min_sites", "deadline"),
}
_PATHS = {("model", "path"), ("data", "train"), ("data", "test")}
_UNUSED = {("protection", "protect"), ("protection", "integrity_bits")}  # by a split job


def rows(log: RunLog) -> list[tuple[str, str]]:
    """Dotted key and value of every setting that has one."""
    found: list[tuple[str, str]] = []
    for section, keys in _KEYS.items():
        for key in keys:
            value = log.setting(section, key)
            if value is None or (log.is_split and (section, key) in _UNUSED):
                continue
            if section == "tuning" and isinstance(value, dict):  # [tuning.lora], [tuning.spf]
                found += [
                    (f"tuning.{key}.{inner}", _shown(of_it, False))
                    for inner, of_it in value.items()
                    if of_it is not None
                ]
            else:
                found.append((f"{section}.{key}", _shown(value, (section, key) in _PATHS)))
    labels = log.resolved.get("labels")
    if isinstance(labels, list) and labels:
        found.append((f"labels ({len(labels)})", "; ".join(str(label) for label in labels)))
    return found


def _shown(value: object, is_path: bool) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_shown(v, is_path)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return PurePath(str(value)).name if is_path else str(value)
