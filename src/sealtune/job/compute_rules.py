"""Where a job's frozen layers are computed, what goes with that, and on which device a party is.

Trust domain: every process; settings only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from sealtune.errors import ConfigError, Problem
from sealtune.job.method import ACCELERATED, NO_ACCELERATOR, Compute
from sealtune.job.sections import JobSpec, ProtectionSpec

if TYPE_CHECKING:
    from sealtune.job.local import Side
    from sealtune.job.settings import Settings

Device = Literal["cpu", "cuda"]
GPU: Compute = "attested-gpu"


def compute_of(job: JobSpec, protection: ProtectionSpec) -> Compute | None:
    """``protection.compute``, given or not; None: the model is at data owners alone."""
    return protection.compute or next(iter(job.rules.computes), None)


def compute_disagreements(
    job: JobSpec | None, protection: ProtectionSpec | None
) -> Iterator[Problem]:
    """Faults between the sections; one that is itself faulty is None."""
    if job is None or protection is None or not (possible := job.rules.computes):
        return  # that the whole section is not read is said elsewhere
    compute = compute_of(job, protection)
    if compute not in possible:
        words = f'is "{compute}", which no {job.method} job has: {" or ".join(possible)}'
        yield Problem("protection.compute", words)
    elif compute != "masked" and "masked" in possible:
        for key in filter(protection.changes, ACCELERATED):
            words = f"is {getattr(protection, key)}, which is not read: {NO_ACCELERATOR}"
            yield Problem(f"protection.{key}", f'{words} with compute = "{compute}"; leave it out')


def is_gpu_stand_in(settings: Settings) -> bool:
    """Whether a job computes on GPUs that prove nothing, as a simulated run may."""
    kind = settings.protection.evidence(settings.job.rules.trains) if settings.compute else None
    return settings.compute == GPU and kind == "simulated"


def device_of(settings: Settings, role: Side, given: Device | None) -> Device:
    """Where the program of a party computes with the model that it holds.

    A GPU that is no part of the enclave would see all that the enclave is there to hide; so the
    operator's file alone does not name one.

    Args:
        role: of the party.
        given: what its local file says.

    Raises:
        ConfigError: it names a device that the job does not allow this party.
    """
    rules = settings.job.rules
    if role not in rules.attested:  # a data owner's own machine, or an accelerator
        return given or "cpu"
    if role != rules.trains:
        return _only_cpu(role, given, "this program holds no model")
    if settings.compute != GPU:
        words = f'a GPU that proves nothing would see what the enclave hides: compute = "{GPU}"'
        return _only_cpu(role, given, words)
    if given == "cpu" and not is_gpu_stand_in(settings):
        words = f'is "cpu", but everybody signed compute = "{GPU}"; "cpu" stands in for it in '
        raise _refused(role, f"{words}simulated runs alone")
    return given or "cuda"


def _only_cpu(role: Side, given: Device | None, why: str) -> Device:
    if given == "cuda":
        raise _refused(role, f'is "cuda"; {why}')
    return "cpu"


def _refused(role: Side, words: str) -> ConfigError:
    return ConfigError(f"local file of the {role}", [Problem("device", words)])
