"""What a manifest accepts as evidence, for people; what proves nothing is marked.

Trust domain: a participant's own machine; manifests come from outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sealtune.attest import AppraisalPolicy, Kind
from sealtune.attest.policy import KindPolicy
from sealtune.job.printable import printable
from sealtune.report.manifest_page import Group, Line

_ROLES = {"server": "server enclave", "site": "sites’ enclaves"}
_GPU = (
    "an attested GPU is required beside each enclave; its evidence can be relayed from another "
    "machine until GPUs and enclaves are bound by TDISP"
)
ANY_CODE = "ANY CODE AT ALL"
NO_TEE = (
    "none: SECURE AGGREGATION, WEAKER THAN ENCLAVES. The server is trusted not to side with a "
    "third of the sites or more, and nothing checks or bounds single updates"
)


def evidence(policies: Mapping[str, AppraisalPolicy]) -> list[Group]:
    """A group for each kind of evidence of each role."""
    if not policies:
        return [Group(NO_TEE, (), "bad")]
    groups = []
    for role, policy in policies.items():
        above = f"of the {_ROLES[role]}"
        if not policy.kinds:
            groups.append(Group("none: no enclave can take part", (), "bad", above=above))
        for kind, accepted in policy.kinds.items():
            groups.append(_kind(kind, accepted, above))
            above = ""
        if policy.gpu_required:
            groups.append(Group("", (Line("GPU", _GPU, "note"),)))
    return groups


def weak_evidence(policies: Mapping[str, AppraisalPolicy]) -> list[str]:
    """What of it can be forged, each in a sentence."""
    weak = []
    for role, policy in policies.items():
        whose = f"Evidence of the {_ROLES[role]}"
        for kind, accepted in policy.kinds.items():
            if kind is Kind.SIMULATED:
                words = "whoever runs their machine can read all that is on it"
                weak.append(f"{whose} is simulated: not confidential, {words}.")
            elif accepted.insecure_test_root is not None:
                weak.append(f"{whose} is under a test root, whose owner can forge it.")
    return weak


def _kind(kind: Kind, accepted: KindPolicy, above: str) -> Group:
    rows = [
        _listed("code", accepted.measurements, ANY_CODE),
        _listed("signers", accepted.signers, "any"),
        Line("min SVN", str(accepted.min_svn)),
        Line("firmware", ", ".join(map(printable, accepted.tcb_statuses)) or "none"),
    ]
    if accepted.advisories:
        rows.append(_listed("advisories", accepted.advisories, "ANY that come with it"))
    for product, parts in accepted.snp.min_tcb.items() if accepted.snp else ():
        least = ", ".join(f"{k} {v}" for k, v in parts.items())
        rows.append(Line("min TCB", f"{product} {least}"))
    if accepted.min_firmware:
        least = ", ".join(f"{k} {v}" for k, v in accepted.min_firmware.items())
        rows.append(Line("min firmware", least))
    if accepted.platforms != "any":
        rows.append(_listed("machines", accepted.platforms, ""))
    if accepted.allow:
        rows.append(Line("allowed", ", ".join(accepted.allow), "note"))
    if kind is Kind.SIMULATED:
        words = "simulated  NOT CONFIDENTIAL: whoever runs a machine can read all that is on it"
        return Group(words, tuple(rows), "bad", above=above)
    if accepted.insecure_test_root is not None:
        root = accepted.insecure_test_root
        words = f"{kind}  NOT CONFIDENTIAL: under an INSECURE TEST ROOT, {root}"
        return Group(words, tuple(rows), "bad", above=above)
    return Group(str(kind), tuple(rows), "good", above=above)


def _listed(name: str, values: Sequence[str] | str, anything: str) -> Line:
    if isinstance(values, str):
        return Line(name, anything, "bad" if "ANY" in anything else "")
    return Line(name, ", ".join(map(printable, values)) or "none")
