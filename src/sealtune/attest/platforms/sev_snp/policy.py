"""What is accepted of an SEV-SNP guest and its machine, beyond what every kind has.

    "snp": {
        "min_tcb": {"Genoa": {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84}},
        "require_platform": ["ecc", "alias-check"]
    }

AMD gives no verdict on firmware, so each product that is accepted is named with the smallest
version of every part of its TCB. Versions of different products do not compare: what is new on one
may be old on another.

Trust domain: every enclave, and whoever appraises one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from sealtune.attest.errors import (
    BadChainError,
    GuestPolicyError,
    PlatformNotAllowedError,
    TcbOutOfDateError,
    UnknownSignerError,
)
from sealtune.attest.evidence import Any, Hex
from sealtune.attest.platforms.sev_snp.state import (
    TCB_PARTS,
    GuestBit,
    PlatformBit,
    Product,
    SnpState,
    TcbPart,
)
from sealtune.errors import AttestationError

Version = Annotated[int, Field(ge=0, le=255)]


class SnpPolicy(BaseModel):
    """What is accepted of SEV-SNP.

    Attributes:
        min_tcb: smallest accepted firmware versions, by product and part; each product needs all of
            its parts. They hold for the TCB that the guest was launched under, the committed one
            (below which the host can roll nothing back), the current and the reported one.
        author_keys: accepted digests of the key that certified the ID key. An ID key that the
            policy pins by `signers` and that has an author needs its author here.
        require_guest_policy: bits of the guest policy that must be set.
        require_platform: properties that the machine must have.
        host_data: accepted values of what the host gave at launch (32 bytes), or "any".
        vlek_providers: cloud providers whose VLEK may sign, as named in the certificate, or "any";
            a chip's own VCEK always may.
        max_vmpl: highest accepted privilege level number (0 is the most privileged; a guest below a
            paravisor has a higher one).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_tcb: Mapping[Product, Mapping[TcbPart, Version]]
    author_keys: tuple[Hex, ...] = ()
    require_guest_policy: tuple[GuestBit, ...] = ()
    require_platform: tuple[PlatformBit, ...] = ()
    host_data: tuple[Hex, ...] | Any = "any"
    vlek_providers: tuple[str, ...] | Any = ()
    max_vmpl: int = Field(default=0, ge=0, le=3)

    @model_validator(mode="after")
    def _all_parts(self) -> Self:
        for product, least in self.min_tcb.items():
            parts = TCB_PARTS[product]
            if set(least) != set(parts):
                raise ValueError(f"min_tcb of {product} needs exactly {', '.join(parts)}")
        return self

    def status(self, state: SnpState) -> str:
        """The verdict on firmware: "MinimumMet", or "Unchecked" where all minima are zero."""
        return "MinimumMet" if any(self.min_tcb.get(state.product, {}).values()) else "Unchecked"

    def faults(self, state: SnpState, *, id_key_pinned: bool) -> Iterator[AttestationError]:
        """Everything that is not accepted.

        Args:
            state: of guest and machine, from a verified report.
            id_key_pinned: whether the appraisal policy names ID keys.
        """
        yield from self._tcb(state)
        if state.vmpl > self.max_vmpl:
            yield GuestPolicyError(
                f"the report was asked for at VMPL {state.vmpl}; the policy accepts up to "
                f"{self.max_vmpl}"
            )
        named = self.vlek_providers == "any" or state.vlek_provider in self.vlek_providers
        if state.vlek_provider and not named:
            yield BadChainError(
                f"the report is signed by a VLEK of {state.vlek_provider!r}, which the policy does "
                "not name",
                hint="the provider holds such a key, not the chip; to accept it, name it in "
                "vlek_providers",
            )
        authored = bool(state.author_key) and id_key_pinned
        if (authored or self.author_keys) and state.author_key not in self.author_keys:
            yield UnknownSignerError(
                f"the ID key of the guest is certified by {state.author_key or 'nobody'}, which "
                "author_keys of the policy does not name"
            )
        lacking = [bit for bit in self.require_guest_policy if bit not in state.guest_policy]
        if lacking:
            yield GuestPolicyError(f"the SEV-SNP guest policy lacks {', '.join(lacking)}")
        missing = [bit for bit in self.require_platform if bit not in state.platform]
        if missing:
            yield PlatformNotAllowedError(f"the SEV-SNP machine lacks {', '.join(missing)}")
        if self.host_data != "any" and state.host_data not in self.host_data:
            yield GuestPolicyError(
                f"the host gave the guest {state.host_data} at launch, which host_data of the "
                "policy does not name"
            )

    def _tcb(self, state: SnpState) -> Iterator[AttestationError]:
        least = self.min_tcb.get(state.product)
        if least is None:
            yield TcbOutOfDateError(
                f"the policy states no firmware versions (min_tcb) for {state.product}"
            )
            return
        for which, versions in state.tcb.items():
            old = [
                f"{part} {versions[part]} (asked for: {smallest})"
                for part, smallest in least.items()
                if versions[part] < smallest
            ]
            if old:
                yield TcbOutOfDateError(
                    f"the {which} TCB of the SEV-SNP platform is too old: {', '.join(old)}",
                    hint="have the guest started anew under the firmware in use"
                    if which == "launch"
                    else "have its operator update and commit firmware and microcode",
                )
