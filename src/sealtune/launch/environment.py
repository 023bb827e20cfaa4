"""The environment variables of a run's processes, and the versions that it runs on.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import sealtune

_PACKAGES = ("sealtune", "torch", "transformers", "peft", "flwr", "cryptography", "numpy")


def variables(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's variables with what every child needs, and ``extra``."""
    result = dict(os.environ)
    source = Path(sealtune.__file__).parents[1]
    if source.name != "site-packages":  # run from a checkout: children must find it, too
        paths = [str(source), result.get("PYTHONPATH", "")]
        result["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    # Connections to 127.0.0.1 must not be sent to a proxy.
    for name in ("no_proxy", "NO_PROXY"):
        result[name] = ",".join(filter(None, [result.get(name, ""), "127.0.0.1,localhost"]))
    result["PYTHONUNBUFFERED"] = "1"
    result.update(extra)
    return result


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, without importing them."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if name == "sealtune":
                found[name] = getattr(sealtune, "__version__", "unknown")
    return found
