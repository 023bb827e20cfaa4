"""What a participant checks of code and evidence in a manifest before signing it, and after.

    check_accepted(manifest, None)              simulated enclaves of the code installed here
    check_accepted(manifest, "policy.json")     what this file says, and nothing else

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path

from sealtune.attest import AppraisalPolicy
from sealtune.attest.files import load_policy
from sealtune.attest.measure import own_measurement
from sealtune.attest.platforms.simulated import simulated_policy
from sealtune.attest.policy import parse_policy
from sealtune.attest.strength import check_strength
from sealtune.errors import DigestMismatchError
from sealtune.job.manifest import Manifest


def check_accepted(manifest: Manifest, policy_file: Path | None) -> list[str]:
    """Hold code digest and accepted evidence against what is known here.

    Args:
        policy_file: the evidence that this participant means to accept; None: simulated enclaves of
            the code installed here.

    Returns:
        what was found right, in words.

    Raises:
        WeakEvidenceError: it would accept code that nobody named.
        DigestMismatchError: other code, or other evidence than expected.
    """
    accepted = parse_policy(manifest.appraisal)
    check_strength(accepted)
    if manifest.code_digest != own_measurement().hex():
        raise DigestMismatchError(
            "the manifest names other code than the sealtune that is installed here",
            hint="use the version that built the manifest; the same release must run everywhere",
        )
    expected = simulated_policy() if policy_file is None else load_policy(policy_file)
    differing = _differences(accepted, expected)
    if differing:
        source = "simulated enclaves of this code" if policy_file is None else str(policy_file)
        raise DigestMismatchError(
            f"the manifest accepts other evidence than {source}; these differ: "
            f"{', '.join(differing)}",
            hint="do not sign before you know why; --policy FILE says what you mean to accept",
        )
    return ["code: the sealtune that is installed here", "evidence: what is to be accepted"]


def _differences(accepted: AppraisalPolicy, expected: AppraisalPolicy) -> list[str]:
    """Dotted keys whose values differ."""
    differing = [
        name
        for name in ("version", "gpu_required")
        if getattr(accepted, name) != getattr(expected, name)
    ]
    for kind in sorted(accepted.kinds.keys() | expected.kinds.keys()):
        one, other = accepted.kinds.get(kind), expected.kinds.get(kind)
        if one is None or other is None:
            differing.append(str(kind))
        else:
            here, there = one.model_dump(mode="json"), other.model_dump(mode="json")
            differing += [f"{kind}.{key}" for key in here if here[key] != there[key]]
    return differing
