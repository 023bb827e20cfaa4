"""What each role needs of its machine, and how bad it is where that is missing.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sealtune.doctor.finding import Finding, State
from sealtune.doctor.tee import KINDS


class Role(StrEnum):
    """A party that starts programs of its own."""

    SITE = "site"
    SERVER = "server"
    ACCELERATOR = "accelerator"
    COORDINATOR = "coordinator"


class Colour(StrEnum):
    """How a machine does for a role; the worst comes last."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


PROGRAMS: Mapping[Role, tuple[str, ...]] = {
    Role.SITE: ("site-enclave", "owner-site", "owner-trainer", "node"),
    Role.SERVER: ("aggregator", "split-server", "secagg-server", "link"),
    Role.ACCELERATOR: ("accelerator",),
    Role.COORDINATOR: ("relay",),
}
LISTENS: Mapping[Role, str] = {
    Role.SITE: "no port is open: it only makes connections, to coordinator and accelerator",
    Role.SERVER: "no port is open: it only makes a connection, to the coordinator",
    Role.ACCELERATOR: "one port, for its site's enclave",
    Role.COORDINATOR: "two ports, for the sites and for the server's link",
}

_RED, _AMBER = Colour.RED, Colour.AMBER
_EVERYBODY = {
    "python": _RED,
    "versions": _RED,
    "key": _RED,
    "port": _RED,
    "disk": _RED,
    "kernel": _AMBER,
    "clock": _AMBER,
    "processor.cores": _AMBER,
    "manifest": _RED,
}
_COMES = {"coordinator": _AMBER, "coordinator.certificate": _RED, "coordinator.clock": _AMBER}
_KEEPS_SECRETS = {
    "memory": _RED,
    "memory.shared": _AMBER,
    "processor.vectors": _AMBER,
    "swap": _AMBER,
    "hibernation": _AMBER,
    "core-dumps": _AMBER,
    "ptrace": _AMBER,
}
_COMPUTES = {"processor.int8": _AMBER, "processor.library": _AMBER}
# key of a finding, or its part before the first point -> the colour where it is missing
DEMANDS: Mapping[Role, Mapping[str, Colour]] = {
    Role.SITE: {
        **_EVERYBODY,
        **_KEEPS_SECRETS,
        **_COMPUTES,
        **_COMES,
        "processor.pads": _AMBER,
        "tee": _AMBER,  # of a split job and of secure aggregation no site needs one
    },
    Role.SERVER: {**_EVERYBODY, **_KEEPS_SECRETS, **_COMES, "tee": _RED},
    Role.ACCELERATOR: {
        **_EVERYBODY,
        **_COMPUTES,
        "memory": _RED,
        "memory.shared": _AMBER,
        "gpu": _AMBER,
    },
    Role.COORDINATOR: {**_EVERYBODY, "memory": _AMBER},
}
_SIMULATED, NO_EVIDENCE = "simulated", "none"
EVIDENCE = (*KINDS, _SIMULATED, NO_EVIDENCE)


@dataclass(frozen=True)
class Verdict:
    """How a machine does for a role.

    Attributes:
        role: which.
        colours: each finding that counts for the role, with its colour.
        listens: which ports must be reachable from outside.
    """

    role: Role
    colours: tuple[tuple[Finding, Colour], ...]
    listens: str

    @property
    def colour(self) -> Colour:
        """The worst."""
        worst = [colour for colour in reversed(Colour) if colour in {c for _, c in self.colours}]
        return worst[0] if worst else Colour.GREEN


def judge(
    role: Role,
    findings: Iterable[Finding],
    evidence: str = "",
    *,
    gpu: bool = False,
    image: bool = False,
    changes: Mapping[str, Colour | None] | None = None,
) -> Verdict:
    """Hold findings against what a role needs.

    Args:
        role: which.
        findings: of the machine.
        evidence: the kind that the role has to show, one of `EVIDENCE`; empty: any of hardware.
        gpu: whether evidence of a GPU must come with it.
        image: whether the enclave is an image that is started here.
        changes: key -> colour where a job asks for it besides; None: it does not ask for it.
    """
    everything = list(findings)
    demands = {**DEMANDS[role], f"packages.{role}": _RED}
    if "tee" in demands:
        everything.append(_tee(everything, evidence))
        if evidence in KINDS:
            demands["tee"] = _RED
    if gpu:
        demands |= {"gpu": _RED, "gpu.confidential": _RED, "memory.locked": _AMBER}
    if image:
        demands |= {"qemu": _RED, "kvm": _AMBER}
    for key, colour in (changes or {}).items():
        demands.pop(key, None)
        if colour is not None:
            demands[key] = colour
    colours = []
    for finding in everything:
        demand = demands.get(finding.key)
        if demand is None and finding.key.startswith(("key.", "port.")):
            demand = demands[finding.key.partition(".")[0]]
        if demand is not None:
            colours.append((finding, _colour(finding.state, demand)))
    return Verdict(role, tuple(colours), LISTENS[role])


def _colour(state: State, missing: Colour) -> Colour:
    if state is State.GOOD:
        return Colour.GREEN
    return missing if state is State.MISSING else Colour.AMBER


def _tee(findings: Iterable[Finding], evidence: str) -> Finding:
    """One finding for all hardware that keeps the operator out."""
    by_key = {finding.key: finding for finding in findings}
    if evidence == NO_EVIDENCE:
        return Finding("tee", State.GOOD, "no enclave is asked for")
    if evidence == _SIMULATED:
        words = "simulated evidence: NOT confidential, whoever has this machine reads everything"
        return Finding("tee", State.POOR, words, "for trials only")
    kinds = [by_key[kind] for kind in ((evidence,) if evidence in KINDS else KINDS)]
    for state in (State.GOOD, State.POOR):
        those = [kind for kind in kinds if kind.state is state]
        if those:
            words = "; ".join(kind.words for kind in those)
            remedy = "; ".join(kind.remedy for kind in those if kind.remedy)
            install = tuple(name for kind in those for name in kind.install)
            return Finding("tee", state, words, remedy, install, tuple(k.key for k in those))
    hosts = [by_key[f"{kind.key}-host"] for kind in kinds if f"{kind.key}-host" in by_key]
    able = [host for host in hosts if host.state in (State.GOOD, State.POOR)]
    if able:
        words = f"none here, but this machine is a {', '.join(host.words for host in able)}"
        remedy = "start the enclave in a guest of it (docs/hardware-tdx.md, docs/hardware-snp.md)"
        return Finding("tee", State.POOR, words, remedy)
    words = f"no {evidence or 'SGX, TDX or SEV-SNP'}: only simulated evidence is possible"
    remedy = (
        "a machine or cloud VM with one; for a trial: --evidence simulated; a role that shows no "
        "evidence: --evidence none"
    )
    return Finding("tee", State.MISSING, words, remedy)
