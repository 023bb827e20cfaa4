"""The run's ``adapter/``: what every site's enclave wrote for its owner, once they all agree.

Where sites have personal parts, there is no such adapter; then they must agree in the rest. Of
sites of different ranks it is that of the highest, of which others must have the first directions.

Trust domain: operator (untrusted). On one machine the operator is every owner at once; the adapter
is public to the participants by then.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from sealtune.errors import FederationError
from sealtune.launch.metrics import storage_error

_MARK = "sealtune.json"  # every adapter has one
_Tensors = dict[str, NDArray[np.float32]]


def collect_adapter(
    run_dir: Path,
    sites: Sequence[str],
    personal: Sequence[str] = (),
    ranks: Mapping[str, int] | None = None,
) -> None:
    """Copy the released adapter to ``run_dir/adapter``, if it is the same at all sites.

    Args:
        personal: names of the tensors that are each site's own.
        ranks: of sites that have a lower rank than the job.

    Raises:
        FederationError: no site has one, one is damaged, or two sites have different ones.
        StorageError: it cannot be written.
    """
    folders = {site: run_dir / "sites" / site / "adapter" for site in sites}
    written = {site: folder for site, folder in folders.items() if (folder / _MARK).is_file()}
    if not written:
        raise FederationError(
            "no site has written an adapter", hint=f"see the logs in {run_dir / 'logs'}"
        )
    lower = ranks or {}
    highest = max(written, key=lambda site: lower.get(site, math.inf))
    whole = _tensors(written[highest], personal)
    for site, folder in written.items():
        if not _agrees(_tensors(folder, personal), whole, narrower=site in lower):
            raise FederationError(f"{written[highest]} and {folder} hold different adapters")
    if personal:
        return
    target, fresh = run_dir / "adapter", run_dir / ".adapter"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(written[highest], fresh)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fresh, target)
    except OSError as error:
        raise storage_error(target, error) from error


def _tensors(folder: Path, personal: Sequence[str]) -> _Tensors:
    """What must be the same everywhere: the tensors that are no site's own."""
    try:
        files = [load(path.read_bytes()) for path in folder.glob("*.safetensors")]
    except SafetensorError as error:
        raise FederationError(f"the adapter in {folder} was changed: it is damaged") from error
    return {n: t for tensors in files for n, t in tensors.items() if n not in personal}


def _agrees(own: _Tensors, whole: _Tensors, *, narrower: bool) -> bool:
    """Whether ``own`` is ``whole``, bit for bit, or its first part where it may be narrower."""
    return own.keys() == whole.keys() and all(
        tensor.ndim == whole[name].ndim
        and (narrower or tensor.shape == whole[name].shape)
        and tensor.tobytes() == whole[name][tuple(map(slice, tensor.shape))].tobytes()
        for name, tensor in own.items()
    )
