"""What no job may accept, whoever signed it."""

from __future__ import annotations

import pytest

from sealtune.attest import AppraisalPolicy, Kind, KindPolicy
from sealtune.attest.strength import check_strength
from sealtune.errors import WeakEvidenceError
from tests.attest.public import kind_policy

CODE = ("ab" * 48,)
TDX = KindPolicy(measurements=CODE)
SIMULATED = KindPolicy(measurements=CODE, tcb_statuses=("Simulated",))
GPU = kind_policy(Kind.NVIDIA_GPU)

TRIAL = KindPolicy(measurements=CODE, insecure_test_root="ab" * 32)


@pytest.mark.parametrize(
    "kinds",
    [
        {Kind.TDX: TDX},
        {Kind.SIMULATED: SIMULATED},
        {Kind.TDX: TDX, Kind.SEV_SNP: kind_policy(Kind.SEV_SNP, measurements=CODE)},
        {Kind.TDX: TRIAL, Kind.SIMULATED: SIMULATED},
        {Kind.TDX: TDX, Kind.NVIDIA_GPU: GPU},  # told by NVIDIA's reference values
        {Kind.TDX: TDX, Kind.NVIDIA_GPU: kind_policy(Kind.NVIDIA_GPU, measurements=CODE)},
    ],
)
def test_accepted(kinds: dict[Kind, KindPolicy]) -> None:
    check_strength(AppraisalPolicy(kinds=kinds))


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ({}, "no kind of evidence"),
        (
            {Kind.TDX: TDX, Kind.PARTICIPANT: kind_policy(Kind.PARTICIPANT, measurements=CODE)},
            "a participant's signature as evidence of an enclave",
        ),
        (
            {Kind.UNATTESTED: kind_policy(Kind.UNATTESTED, measurements=CODE)},
            "nothing at all as evidence of an enclave",
        ),
        ({Kind.TDX: KindPolicy(measurements="any")}, "tdx evidence of any code"),
        ({Kind.SIMULATED: kind_policy(Kind.SIMULATED)}, "simulated evidence of any code"),
        (
            {Kind.NVIDIA_GPU: kind_policy(Kind.NVIDIA_GPU, tcb_statuses=("Unchecked",))},
            "nvidia-gpu evidence of any code",
        ),
        ({Kind.TDX: TDX, Kind.SIMULATED: SIMULATED}, "simulated evidence beside tdx"),
        ({Kind.TDX: TDX, Kind.SGX: TRIAL}, "sgx under a test root evidence beside tdx"),
        ({Kind.TDX: TRIAL, Kind.NVIDIA_GPU: GPU}, "tdx under a test root evidence beside nvidia"),
    ],
)
def test_refused(kinds: dict[Kind, KindPolicy], said: str) -> None:
    with pytest.raises(WeakEvidenceError, match=said):
        check_strength(AppraisalPolicy(kinds=kinds))
