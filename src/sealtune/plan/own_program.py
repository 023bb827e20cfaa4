"""What a party says on its card of its program and its machine.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

import os
from typing import Any

from sealtune.attest.evidence import Kind
from sealtune.attest.measure import program_digest
from sealtune.attest.policy import AppraisalPolicy
from sealtune.attest.strength import check_strength
from sealtune.errors import ConfigError, Problem
from sealtune.job.card import CardEvidence, Machine, ServerCard, Signer
from sealtune.job.job_file import JobFile
from sealtune.job.method import Attested, method_of


def server_card(
    job: JobFile,
    signer: Signer,
    *,
    certificate: str,
    policy: AppraisalPolicy | None = None,
    note: str = "",
) -> ServerCard:
    """The card of the server; arguments and errors as for ``site_card``."""
    return ServerCard(
        role="server",
        server_certificate=certificate,
        **program_facts(job, "server", policy),
        machine=this_machine(note),
        **signer.head(job.settings, job.data.labels),
    )


def this_machine(note: str) -> Machine:
    """Memory and cores of this machine."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return Machine(memory_mib=max(1, pages * size >> 20), cores=cores, note=note)


def program_facts(job: JobFile, role: Attested, policy: AppraisalPolicy | None) -> dict[str, Any]:
    """Code and evidence of the program of ``role``, for its card.

    Raises:
        WeakEvidenceError: the policy accepts code that nobody named.
        ConfigError: it accepts other evidence than the job asks for.
    """
    rules = method_of(job.job.rules.name)
    program = rules.programs[role]
    digest = program_digest(program)
    evidence = None
    if role in rules.attested:
        kind = job.protection.evidence(role)
        if policy is None and kind == "simulated":
            from sealtune.attest.platforms.simulated import own_signer, simulated_policy

            policy = simulated_policy(digest, (own_signer(),))
        if policy is not None:
            check_strength(policy)
            if Kind(kind) not in policy.kinds:
                words = f"accepts {', '.join(policy.kinds)}; the job asks the {role} for {kind}"
                raise ConfigError("--policy", [Problem("kinds", words)])
        content = None if policy is None else policy.model_dump(mode="json")
        evidence = CardEvidence(kind=kind, policy=content)
    return {"code": {program: digest.hex()}, "evidence": evidence}
