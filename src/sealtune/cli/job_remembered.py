"""Hold a manifest against what sites on this machine remember of their jobs; nothing is written.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

if TYPE_CHECKING:
    from sealtune.job.local import Local
    from sealtune.job.manifest import Manifest


def check_remembered(
    manifest: Manifest,
    site: str,
    folder: Path | None,
    key: Ed25519PrivateKey | None,
    root: Path,
    *,
    anew: bool,
) -> int | None:
    """Whether a site may take part, beside all jobs in which it did before.

    Args:
        folder: where it remembers them; default: in the user's state folder.
        key: its organisation's.
        root: of the file system with the machine's devices.
        anew: the job begins with its first round, and does not go on.

    Returns:
        the last round of this very job whose result the site has seen; None: it has seen none.

    Raises:
        DifferenceReleaseError: an earlier result and this one could be subtracted.
        RollbackError: the site has seen rounds of this job, and it is begun anew.
        AttesterUnavailableError: only the site's enclave can read what it remembers.
        StorageError: the files were altered, cut or exchanged.
    """
    from sealtune.job.manifest import job_id, manifest_bytes
    from sealtune.party.continuity import own_continuity
    from sealtune.party.job_log import own_log
    from sealtune.party.own_files import own_files
    from sealtune.party.trust import SERVER

    identity = job_id(manifest_bytes(manifest))
    files = own_files(manifest, site, folder, key, root)
    own_log(manifest, identity, files).check(anew=anew)
    if SERVER not in manifest.appraisal:
        return None
    continuity = own_continuity(identity, files)
    continuity.check(anew=anew)
    seen = continuity.seen
    return seen.head.round if seen else None


def compare_remembered(manifest: Manifest, local: Local) -> str:
    """The same for a site's own local file, in words.

    Raises: as for ``check_remembered``, but for AttesterUnavailableError.
    """
    from sealtune.attest.errors import AttesterUnavailableError
    from sealtune.attest.platforms.base import MACHINE
    from sealtune.job.key_files import load_private
    from sealtune.party.trust import accepted_evidence

    root = MACHINE
    if local.evidence_root is not None:
        from sealtune.party.hardware import devices

        root = devices(manifest, "site", accepted_evidence(manifest), local.evidence_root)
    site, key = local.site or "", load_private(local.key) if local.key else None
    try:
        seen = check_remembered(manifest, site, local.history, key, root, anew=False)
    except AttesterUnavailableError:
        return "jobs of before: not looked at, since only the site's enclave can read its log"
    if seen is None:
        return "jobs of before: none is in the way"
    return f"jobs of before: this very job got beyond round {seen}; it can go on, not begin anew"
