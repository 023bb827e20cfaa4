"""SEV-SNP guests.

Source of the sealing key: AMD SEV Secure Nested Paging Firmware ABI (56860), MSG_KEY_REQ; Linux
Documentation/virt/coco/sev-guest.rst, SNP_GET_DERIVED_KEY. Tested against a fake device only.

Trust domain: every enclave.
"""

from __future__ import annotations

import ctypes
import fcntl
import struct
from collections.abc import Callable, Sequence

from sealtune.attest.errors import AttesterUnavailableError
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import MACHINE, Need, Platform
from sealtune.attest.platforms.device import read, unavailable
from sealtune.attest.platforms.sev_snp.certificates import from_file, from_table
from sealtune.attest.platforms.sev_snp.report import REPORT_SIZE, SnpVerifier
from sealtune.attest.platforms.tsm import tsm_needs, tsm_report

_DEVICE = "dev/sev-guest"
# struct snp_guest_request_ioctl: version u8, addresses of request and response, firmware's error
_CALL = struct.Struct("<B7xQQQ")
_GET_DERIVED_KEY = 3 << 30 | _CALL.size << 16 | ord("S") << 8 | 1  # _IOWR('S', 1, ...)
# struct snp_derived_key_req: root key (0: the chip's VCEK), reserved, fields, VMPL, SVN, TCB
_REQUEST = struct.Struct("<IIQIIQ")
_MIX_POLICY, _MIX_MEASUREMENT = 1 << 0, 1 << 3
# MSG_KEY_RSP: status u32, reserved, key
_RESPONSE = struct.Struct("<I28x32s")


class SevSnp(Platform):
    """An SEV-SNP guest."""

    kind = Kind.SEV_SNP

    def needs(self) -> list[Need]:
        """See `Platform`."""
        return tsm_needs(self.root, "an SEV-SNP guest", _DEVICE, "sev_guest")

    def collect(self, challenge: bytes) -> tuple[bytes, bytes]:
        """See `Platform`."""
        report, table = tsm_report(self.root, self.kind, challenge)
        return report[:REPORT_SIZE], from_table(table)

    def verifier(self, collateral: Sequence[bytes] = ()) -> SnpVerifier:
        """See `Platform`."""
        return SnpVerifier(b"".join(from_file(raw) for raw in collateral) or None)

    def sealing_key(self) -> bytes:
        """See `Platform`: of this launch measurement and guest policy on this chip.

        It changes with the chip's reported TCB: after an update of its firmware, files that were
        sealed before do not open.
        """
        path = self.root / _DEVICE
        try:
            if self.root != MACHINE:  # a test's folder, whose file holds the firmware's answer
                return self.derive(_key(read(path), 0))
            with path.open("r+b", buffering=0) as device:
                secret = derived_key(device.fileno())
        except OSError as error:
            raise unavailable(f"the firmware gave no sealing key ({path})", error) from error
        return self.derive(secret)


def derived_key(device: int, call: Callable[[int, int, bytearray], object] = fcntl.ioctl) -> bytes:
    """32 bytes that the firmware derives for this guest.

    Args:
        device: handle of /dev/sev-guest.
        call: does an ioctl with a buffer that the kernel may change.

    Raises:
        OSError: the kernel refuses.
        AttesterUnavailableError: the firmware refuses, or gives no key.
    """
    fields = _MIX_POLICY | _MIX_MEASUREMENT
    request = ctypes.create_string_buffer(_REQUEST.pack(0, 0, fields, 0, 0, 0), _REQUEST.size)
    response = ctypes.create_string_buffer(_RESPONSE.size)
    arguments = bytearray(_CALL.pack(1, ctypes.addressof(request), ctypes.addressof(response), 0))
    call(device, _GET_DERIVED_KEY, arguments)
    answer = response.raw
    ctypes.memset(response, 0, _RESPONSE.size)
    return _key(answer, _CALL.unpack(arguments)[-1])


def _key(answer: bytes, refused: int) -> bytes:
    """The key in the firmware's answer."""
    status, key = _RESPONSE.unpack(answer) if len(answer) == _RESPONSE.size else (0, b"")
    if refused or status or not any(key):
        raise AttesterUnavailableError(
            f"the SEV-SNP firmware gave no sealing key: error {refused:#x}, status {status:#x}",
            hint="the guest must run at VMPL 0",
        )
    return bytes(key)
