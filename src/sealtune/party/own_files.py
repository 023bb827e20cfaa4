"""Where a site keeps what it remembers of its jobs, and the secret under which it does.

Trust domain: client enclave (federated); data owner (split, secure aggregation).
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest.evidence import Kind
from sealtune.attest.platforms import platform
from sealtune.errors import ConfigError, Problem
from sealtune.job.authenticated_file import OwnFiles
from sealtune.job.cache import state_folder
from sealtune.job.keys import fingerprint
from sealtune.job.manifest import Manifest


def own_files(
    manifest: Manifest,
    site: str,
    folder: Path | None,
    key: Ed25519PrivateKey | None,
    root: Path,
) -> OwnFiles:
    """The files of a site.

    Args:
        site: its name in the manifest.
        folder: where they lie; default: in the user's state folder.
        key: its organisation's.
        root: of the file system with the machine's devices.

    Raises:
        AttesterUnavailableError: this machine gives no sealing key.
        ConfigError: its kind of TEE has none that lasts, and there is no key.
    """
    owner = manifest.participant(site)
    folder = folder or state_folder() / "jobs"
    # a file for each method: their results are not compared, and their logs' secrets differ
    name = f"{fingerprint(manifest.keys[owner.org])[:32]}-{manifest.settings.job.method}"
    return OwnFiles(folder / f"{name}.json", site, owner.key, _secret(manifest, key, root))


def _secret(manifest: Manifest, key: Ed25519PrivateKey | None, root: Path) -> bytes:
    if "site" in manifest.appraisal:
        kind = Kind(manifest.settings.protection.evidence("site"))
        enclave = platform(kind, root)
        if enclave.keeps_state:
            return enclave.sealing_key()
        if key is None:
            words = (
                f"is missing: a {kind.upper()} guest has no sealing key, so what this site "
                "remembers of its jobs is kept under its organisation's"
            )
            raise ConfigError("local file", [Problem("key", words)])
    elif key is None:
        raise ConfigError("local file", [Problem("key", "is missing: the site signs with it")])
    return key.private_bytes_raw()
