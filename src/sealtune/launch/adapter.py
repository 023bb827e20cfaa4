"""The run's ``adapter/``: what every site's enclave wrote for its owner, once they all agree.

Where sites have personal parts, there is no such adapter; then they must agree in the rest.

Trust domain: operator (untrusted). On one machine the operator is every owner at once; the adapter
is public to the participants by then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from sealtune.errors import FederationError
from sealtune.launch.metrics import storage_error

_MARK = "sealtune.json"  # every adapter has one


def collect_adapter(run_dir: Path, sites: Sequence[str], personal: Sequence[str] = ()) -> None:
    """Copy the released adapter to ``run_dir/adapter``, if it is the same at all sites.

    Args:
        personal: names of the tensors that are each site's own.

    Raises:
        FederationError: no site has one, one is damaged, or two sites have different ones.
        StorageError: it cannot be written.
    """
    folders = [run_dir / "sites" / site / "adapter" for site in sites]
    written = [folder for folder in folders if (folder / _MARK).is_file()]
    if not written:
        raise FederationError(
            "no site has written an adapter", hint=f"see the logs in {run_dir / 'logs'}"
        )
    first = _weights(written[0], personal)
    for folder in written[1:]:
        if _weights(folder, personal) != first:
            raise FederationError(f"{written[0]} and {folder} hold different adapters")
    if personal:
        return
    target, fresh = run_dir / "adapter", run_dir / ".adapter"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(written[0], fresh)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    except OSError as error:
        raise storage_error(target, error) from error


def _weights(folder: Path, personal: Sequence[str]) -> dict[str, bytes]:
    """What must be the same everywhere: whole files, or the tensors that are no site's own."""
    files = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    if not personal:
        return files
    try:
        tensors = {name: t for data in files.values() for name, t in load(data).items()}
    except SafetensorError as error:
        raise FederationError(f"the adapter in {folder} was changed: it is damaged") from error
    return {name: t.tobytes() for name, t in tensors.items() if name not in personal}
