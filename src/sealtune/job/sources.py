"""Where data may come from: files of known kinds, and data sets of the Hugging Face hub.

Trust domain: every party.
"""

from __future__ import annotations

from pathlib import Path

HUB_PREFIX = "hf:"  # hf:owner/name:split
SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def is_hub_data(path: Path) -> bool:
    """Whether ``path`` names a data set of the Hugging Face hub instead of a file."""
    return str(path).startswith(HUB_PREFIX)
