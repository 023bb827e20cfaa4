"""Rows from the Hugging Face hub, through the optional ``datasets`` package.

    hf:owner/name:split              hf:owner/name:configuration:split

Trust domain: client enclave; also the launcher's checks on the data owner's machine.
"""

from __future__ import annotations

import re
from typing import Any

from sealtune.data.columns import check_columns
from sealtune.errors import DataError
from sealtune.job.printable import first_line
from sealtune.job.sources import HUB_PREFIX

_PART = r"[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(rf"({_PART}/{_PART}|{_PART})(?::([\w.-]+))?:([\w.-]+)")


def parse_address(address: str) -> tuple[str, str | None, str]:
    """Split ``hf:owner/name[:configuration]:split`` into ``(name, configuration, split)``.

    Raises:
        DataError: it has another form.
    """
    matched = ADDRESS.fullmatch(address.removeprefix(HUB_PREFIX))
    if not matched:
        raise DataError(
            f"'{address}' does not name a hub data set",
            hint="write hf:owner/name:split, or hf:owner/name:configuration:split",
        )
    return matched[1], matched[2], matched[3]


def read_hub(address: str, columns: list[str]) -> list[dict[str, Any]]:
    """All rows of one split, reduced to ``columns``; class numbers become class names.

    Raises:
        DataError: ``datasets`` is not installed, the hub cannot be reached, or has no such set.
    """
    name, configuration, split = parse_address(address)
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{address} needs the package 'datasets', which is not installed",
            hint="pip install 'sealtune[hub]', or give a .jsonl, .csv or .parquet file",
        ) from error
    try:
        data = datasets.load_dataset(name, configuration, split=split)
    except Exception as error:  # the hub's client raises dozens of kinds, all of them mean this
        raise DataError(
            f"{address} cannot be loaded: {first_line(error)}",
            hint="check the name, the split and the network, or give a local file",
        ) from error
    check_columns(address, columns, list(data.column_names))
    rows: list[dict[str, Any]] = data.select_columns(columns).to_list()
    for column in columns:
        feature = data.features[column]
        if isinstance(feature, datasets.ClassLabel):
            for row in rows:
                if isinstance(row[column], int) and row[column] >= 0:
                    row[column] = feature.int2str(row[column])
    return rows
