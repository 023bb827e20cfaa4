"""How a run's processes are started: their command, their variables, their versions.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata

import sealtune
from sealtune import start

_PACKAGES = ("sealtune", "torch", "transformers", "peft", "flwr", "cryptography", "numpy")
# What a child gets of the launcher's variables; nothing that names code, libraries or servers.
_PASSED = frozenset({
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ",
    "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "SEALTUNE_CACHE",
    "HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    # which instructions libraries of arithmetic may use
    "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "SEALTUNE_NATIVE",
})  # fmt: skip
_SET = {
    # models and data were fetched before; a party that computes reaches for no hub
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # connections to 127.0.0.1 must not be sent to a proxy
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


def program(name: str, *arguments: str) -> list[str]:
    """The command of one of sealtune's programs, isolated (``sealtune.start``).

    Args:
        name: such as ``site-enclave``.
    """
    return [sys.executable, "-I", "-B", "-u", start.__file__, name, *arguments]


def sealtune_command(module: str, *arguments: str) -> list[str]:
    """The command of a module of sealtune that is no program of a job, such as the command line."""
    return [sys.executable, "-I", "-B", "-u", "-m", module, *arguments]


def variables(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child: the few variables that it may have, and ``extra``."""
    return {name: os.environ[name] for name in _PASSED & os.environ.keys()} | _SET | dict(extra)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, without importing them."""
    by_package = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            by_package[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "sealtune":
                by_package[name] = getattr(sealtune, "__version__", "unknown")
    return by_package
