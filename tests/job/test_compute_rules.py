"""Where a job may be computed, what goes with that, and on which device its parties are."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sealtune.errors import ConfigError
from sealtune.job.compute_rules import device_of, is_gpu_stand_in
from sealtune.job.local import Side
from sealtune.job.spec import Job
from tests.sample_job import make_job

SPLIT = {"job": {"method": "split"}, "split": {"cut": 1}}
SUMS = {
    "job": {"trust": "secure-aggregation"},
    "sites": {"names": ["north", "south", "west"]},
    "aggregation": {"norm_bound": "none"},
}


def job(compute: str | None = None, evidence: str = "simulated", **sections: Any) -> Job:
    protection = {"compute": compute, "attestation": evidence}
    given = {key: value for key, value in protection.items() if value not in (None, "simulated")}
    return make_job("model", **({"protection": given} | sections))


@pytest.mark.parametrize(
    ("sections", "compute"), [({}, "masked"), (SPLIT, "enclave"), (SUMS, None)]
)
def test_each_method_has_its_own_way(sections: dict[str, Any], compute: str | None) -> None:
    made = job(**sections)
    assert (made.compute, made.accelerated) == (compute, compute == "masked")


@pytest.mark.parametrize(
    ("sections", "protection", "said"),
    [
        (SPLIT, {"compute": "masked"}, "which no split job has: enclave or attested-gpu"),
        (SUMS, {"compute": "enclave"}, "not read: there is neither enclave nor accelerator"),
        ({}, {"compute": "enclave", "protect": "adapter"}, "protect: is adapter"),
        ({}, {"compute": "enclave", "protect": "adapter"}, "not read: no accelerator takes part"),
        ({}, {"compute": "attested-gpu", "integrity_bits": 50}, "integrity_bits: is 50"),
        ({}, {"compute": "attested-gpu", "pads": "second-accelerator"}, "pads: is second-acc"),
        ({}, {"compute": "gpu"}, "'masked', 'enclave' or 'attested-gpu'"),
    ],
)
def test_what_does_not_go_together(
    sections: dict[str, Any], protection: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        make_job("model", **(sections | {"protection": protection}))
    lines = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in caught.value.errors()]
    assert any(said in line for line in lines), lines


@pytest.mark.parametrize(
    ("made", "role", "given", "device"),
    [
        (job(), "site", None, "cpu"),
        (job("enclave"), "site", "cpu", "cpu"),
        (job("attested-gpu"), "site", None, "cuda"),
        (job("attested-gpu"), "site", "cpu", "cpu"),
        (job("attested-gpu"), "server", None, "cpu"),
        (job("attested-gpu", "sev-snp"), "site", None, "cuda"),
        (job("attested-gpu", **SPLIT), "server", None, "cuda"),
        (job(**SPLIT), "site", "cuda", "cuda"),  # the owner's own
        (job(**SUMS), "site", "cuda", "cuda"),
        (job(**SUMS), "site", None, "cpu"),
    ],
)
def test_devices(made: Job, role: Side, given: Any, device: str) -> None:
    assert device_of(made, role, given) == device


@pytest.mark.parametrize(
    ("made", "role", "given"),
    [
        (job(), "site", "cuda"),
        (job("enclave"), "site", "cuda"),
        (job(**SPLIT), "server", "cuda"),
        (job("attested-gpu"), "server", "cuda"),
        (job("attested-gpu", "sev-snp"), "site", "cpu"),
    ],
)
def test_devices_that_the_operator_does_not_choose(made: Job, role: Side, given: Any) -> None:
    with pytest.raises(ConfigError, match="device: is "):
        device_of(made, role, given)


def test_simulated_gpus_are_none() -> None:
    assert is_gpu_stand_in(job("attested-gpu"))
    assert not is_gpu_stand_in(job("attested-gpu", "sev-snp"))
    assert not is_gpu_stand_in(job("enclave"))
    assert not is_gpu_stand_in(job(**SUMS))
