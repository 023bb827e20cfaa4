"""A manifest names measurements, and the job id is its digest: so no measurement may hold a job id.

A job is bound to evidence by the report data alone; what hosts can put beside the code stays empty.
"""

from __future__ import annotations

import hashlib

import pytest

from sealtune.attest.errors import GuestPolicyError, UnknownMeasurementError
from tests.attest import intel
from tests.attest.amd import MEASUREMENT
from tests.attest.intel import quote, sgx_body, td_body
from tests.attest.test_snp_policy import MINIMUM, made

JOB_ID = hashlib.sha384(b"a manifest that names the measurement of its enclaves").digest()
MRCONFIGID = 136 + 48  # in a TD's report


def test_a_td_is_measured_with_the_configuration_that_its_host_gave() -> None:
    """So a manifest can name a TD whose MRCONFIGID is empty, and none that holds the job id."""
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    empty = td_body(large=True, change={MRCONFIGID: bytes(48)})
    named = intel.verify(quote(empty, version=5)).measurement
    configured = td_body(large=True, change={MRCONFIGID: JOB_ID})
    with pytest.raises(UnknownMeasurementError):
        intel.verify(quote(configured, version=5), measurements=(named,))
    intel.verify(quote(empty, version=5), measurements=(named,))


def test_an_sgx_enclave_that_was_given_a_job_is_refused() -> None:
    pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")
    body = bytearray(sgx_body())
    body[192:240] = JOB_ID  # CONFIGID, of which MRENCLAVE knows nothing
    with pytest.raises(GuestPolicyError, match="CONFIGID"):
        intel.verify(quote(bytes(body), version=3), kind=intel.Kind.SGX)


def test_host_data_are_no_part_of_a_guests_measurement() -> None:
    named = {"measurements": (MEASUREMENT.hex(),)}
    assert made(named, host_data=bytes(32)).measurement == MEASUREMENT.hex()
    assert made(named, host_data=JOB_ID[:32]).measurement == MEASUREMENT.hex()
    empty = {**named, "snp": {"min_tcb": MINIMUM, "host_data": ("00" * 32,)}}
    made(empty, host_data=bytes(32))
    with pytest.raises(GuestPolicyError, match="the host gave the guest"):
        made(empty, host_data=JOB_ID[:32])
