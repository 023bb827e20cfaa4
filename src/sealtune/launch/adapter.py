"""The run's ``adapter/``: what every site's enclave wrote for its owner, once they all agree.

Trust domain: operator (untrusted). On one machine the operator is every owner at once; the adapter
is public to the participants by then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from sealtune.errors import FederationError
from sealtune.launch.metrics import storage_error

_MARK = "sealtune.json"  # every adapter has one


def collect_adapter(run_dir: Path, sites: Sequence[str]) -> Path:
    """Copy the released adapter to ``run_dir/adapter``.

    Raises:
        FederationError: no site has one, or two sites have different ones.
        StorageError: it cannot be written.
    """
    folders = [run_dir / "sites" / site / "adapter" for site in sites]
    written = [folder for folder in folders if (folder / _MARK).is_file()]
    if not written:
        raise FederationError(
            "no site has written an adapter", hint=f"see the logs in {run_dir / 'logs'}"
        )
    first = _weights(written[0])
    for folder in written[1:]:
        if _weights(folder) != first:
            raise FederationError(f"{written[0]} and {folder} hold different adapters")
    target, fresh = run_dir / "adapter", run_dir / ".adapter"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(written[0], fresh)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    except OSError as error:
        raise storage_error(target, error) from error
    return target


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
