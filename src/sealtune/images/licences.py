"""Licences of the packages in images, as SPDX expressions.

From each project's own statement, and from Debian's copyright files. A package that is not here is
listed without a licence: unknown, not free of one.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Mapping

_RUNTIME = "GPL-3.0-or-later WITH GCC-exception-3.1"
_KERNEL = "GPL-2.0-only WITH Linux-syscall-note"

# by (kind, name); names as registries write them, in lower case
LICENCES: Mapping[tuple[str, str], str] = {
    ("deb", "libbz2-1.0"): "bzip2-1.0.6",
    ("deb", "libc6"): "LGPL-2.1-or-later",
    ("deb", "libexpat1"): "MIT",
    ("deb", "libffi8"): "MIT",
    ("deb", "libgcc-s1"): _RUNTIME,
    ("deb", "libgomp1"): _RUNTIME,
    ("deb", "liblzma5"): "LicenseRef-public-domain",
    ("deb", "libpython3.11-minimal"): "PSF-2.0",
    ("deb", "libpython3.11-stdlib"): "PSF-2.0",
    ("deb", "libssl3"): "Apache-2.0",
    ("deb", "libstdc++6"): _RUNTIME,
    ("deb", "libuuid1"): "BSD-3-Clause",
    ("deb", "python3.11-minimal"): "PSF-2.0",
    ("deb", "zlib1g"): "Zlib",
    ("whl", "accelerate"): "Apache-2.0",
    ("whl", "annotated-types"): "MIT",
    ("whl", "cffi"): "MIT-0",
    ("whl", "cryptography"): "Apache-2.0 OR BSD-3-Clause",
    ("whl", "dcap-qvl"): "MIT",
    ("whl", "filelock"): "MIT",
    ("whl", "fsspec"): "BSD-3-Clause",
    ("whl", "huggingface-hub"): "Apache-2.0",
    ("whl", "mpmath"): "BSD-3-Clause",
    ("whl", "numpy"): "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    ("whl", "packaging"): "Apache-2.0 OR BSD-2-Clause",
    ("whl", "peft"): "Apache-2.0",
    ("whl", "pyarrow"): "Apache-2.0",
    ("whl", "pydantic"): "MIT",
    ("whl", "pydantic-core"): "MIT",
    ("whl", "pyyaml"): "MIT",
    ("whl", "regex"): "Apache-2.0 AND CNRI-Python",
    ("whl", "rfc8785"): "Apache-2.0",
    ("whl", "safetensors"): "Apache-2.0",
    ("whl", "sympy"): "BSD-3-Clause",
    ("whl", "tokenizers"): "Apache-2.0",
    ("whl", "torch"): "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND "
    "BSD-3-Clause AND BSL-1.0 AND MIT",
    ("whl", "tqdm"): "MPL-2.0 AND MIT",
    ("whl", "transformers"): "Apache-2.0",
    ("whl", "typing-extensions"): "PSF-2.0",
    ("whl", "typing-inspection"): "MIT",
}


def licence(kind: str, name: str) -> str:
    """The licence of a package, or nothing."""
    if kind == "deb" and name.startswith("linux-image-"):
        return _KERNEL
    return LICENCES.get((kind, name.lower().replace("_", "-")), "")
