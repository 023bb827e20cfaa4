"""The kinds of TEE, each loaded when it is asked for and not before.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

from pathlib import Path

from sealtune.attest.errors import MalformedEvidenceError
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import MACHINE, Platform


def platform(kind: Kind, root: Path = MACHINE) -> Platform:
    """The platform of a kind of evidence.

    Args:
        kind: of evidence.
        root: of the file system with the machine's devices; a test brings its own.

    Raises:
        MalformedEvidenceError: the kind shows no machine.
    """
    match kind:
        case Kind.SIMULATED:
            from sealtune.attest.platforms.simulated import Simulated

            return Simulated(root)
        case Kind.SGX:
            from sealtune.attest.platforms.intel.sgx import Sgx

            return Sgx(root)
        case Kind.TDX:
            from sealtune.attest.platforms.intel.tdx import Tdx

            return Tdx(root)
        case Kind.SEV_SNP:
            from sealtune.attest.platforms.sev_snp.guest import SevSnp

            return SevSnp(root)
        case Kind.NVIDIA_GPU:
            from sealtune.attest.platforms.nvidia_gpu.gpu import NvidiaGpu

            return NvidiaGpu(root)
        case Kind.PARTICIPANT | Kind.UNATTESTED:
            raise MalformedEvidenceError(f"{kind} is no evidence of a machine")
