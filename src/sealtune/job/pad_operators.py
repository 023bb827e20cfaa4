"""Who makes a site's pad products, and who multiplies what they mask: two that must not collude.

Trust domain: every process; manifests and cards come from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from sealtune.errors import Problem
from sealtune.job.sections import Name, ProtectionSpec, Strict

if TYPE_CHECKING:
    from sealtune.job.manifest import Participant

MLKEM_PUBLIC = 1184  # bytes; of the hybrid key in ``channel.hpke``
PUBLIC_SIZE = MLKEM_PUBLIC + 32
NO_COLLUSION = (
    "whoever runs the accelerator and whoever runs the pad accelerator learn nothing alone, and "
    "together everything: they must not collude"
)


def _check_key(value: str) -> str:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

    MLKEM768PublicKey.from_public_bytes(bytes.fromhex(value)[:MLKEM_PUBLIC])  # ValueError
    return value


def key_digest(key: str) -> str:
    """What people compare of a key: SHA-256, 64 hex digits."""
    return hashlib.sha256(bytes.fromhex(key)).hexdigest()


HpkeKeyHex = Annotated[
    str,
    StringConstraints(pattern=rf"^[0-9a-f]{{{2 * PUBLIC_SIZE}}}$"),
    AfterValidator(_check_key),
]


class PadAccelerator(Strict):
    """A site's pad accelerator.

    Attributes:
        operator: organisation that runs it.
        accelerator: organisation that runs the site's accelerator.
        key: the pad accelerator's public HPKE key, to which the site's enclave seals its seed.
        operators: ``independent``; ``simulated``: one machine runs both, which protects nothing.
    """

    operator: Name
    accelerator: Name
    key: HpkeKeyHex
    operators: Literal["independent", "simulated"]

    @model_validator(mode="after")
    def _are_two(self) -> Self:
        if self.operator == self.accelerator:
            raise ValueError(
                f"{self.operator} would run the accelerator and the pad accelerator: together they "
                "see everything"
            )
        return self


PadAccelerators = Annotated[dict[Name, PadAccelerator], Field(max_length=64)]


def check_pads(
    pads: Mapping[str, PadAccelerator],
    protection: ProtectionSpec,
    sites: tuple[str, ...],
    participants: tuple[Participant, ...],
    *,
    across_hosts: bool,
) -> None:
    """Raise ValueError unless each site that needs a pad accelerator has one, of somebody else."""
    wanted = sites if protection.pads == "second-accelerator" else ()
    if sorted(pads) != sorted(wanted):
        raise ValueError(
            f"the sites of pad_accelerators are {', '.join(sorted(pads)) or 'none'}, those that "
            f"protection.pads needs {', '.join(sorted(wanted)) or 'none'}"
        )
    owners = {site: one.org for one in participants for site in one.sites}
    operators: dict[str, str] = {}
    for site, one in pads.items():
        if one.operators == "independent" and one.operator == owners[site]:
            raise ValueError(
                f"{one.operator} would run the pad accelerator of its own site {site}, and sees "
                "what the site's enclave sends to the accelerator"
            )
        if operators.setdefault(one.key, one.operator) != one.operator:
            raise ValueError("two operators of pad accelerators have the same key")
        if across_hosts and one.operators != "independent":
            raise ValueError(f"the operators at site {site} are simulated, in a job of many hosts")


def pad_disagreements(protection: ProtectionSpec | None) -> Iterator[Problem]:
    """What ``protection.pads`` does not go with."""
    if protection is None or protection.pads == "enclave":
        return
    if protection.protect == "insecure-none":
        words = 'is "second-accelerator", but protect = "insecure-none" masks nothing: leave it out'
        yield Problem("protection.pads", words)
    if protection.changes("pad_budget"):
        words = f"is {protection.pad_budget}, which is not read: the enclave makes no pads"
        yield Problem("protection.pad_budget", f"{words}; leave it out")
