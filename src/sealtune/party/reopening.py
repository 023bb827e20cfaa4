"""Whether what an enclave sealed can be opened again; asked of a run that goes on.

Trust domain: server enclave; client enclave (federated); whoever resumes a run or asks its model.
"""

from __future__ import annotations

from sealtune.attest.evidence import Kind
from sealtune.attest.platforms import platform
from sealtune.errors import StorageError
from sealtune.job.method import Attested
from sealtune.job.sections import ProtectionSpec
from sealtune.party.trust import SERVER


def check_reopening(protection: ProtectionSpec, role: Attested = SERVER) -> None:
    """Whether an enclave of ``role`` can open what the one before it sealed.

    Raises:
        StorageError: its kind of TEE has no key that lasts.
    """
    kind = Kind(protection.evidence(role))
    if not platform(kind).keeps_state:
        raise StorageError(
            f"a {kind.upper()} guest has no sealing key: what the enclave that ended sealed cannot "
            "be opened",
            hint="start the run anew, with --force or in an empty folder; a "
            f"{role} with sev-snp or sgx can be resumed",
        )
