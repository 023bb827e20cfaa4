"""What an appraisal policy accepts of SEV-SNP, tried on reports of a made-up AMD."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sealtune.attest import AppraisalPolicy, Kind, KindPolicy
from sealtune.attest.errors import (
    BadChainError,
    DebugEnclaveError,
    GuestPolicyError,
    KindNotAllowedError,
    MalformedEvidenceError,
    PlatformNotAllowedError,
    SvnTooLowError,
    TcbOutOfDateError,
    UnknownMeasurementError,
    UnknownSignerError,
)
from sealtune.attest.platforms.sev_snp.policy import SnpPolicy
from sealtune.attest.platforms.sev_snp.state import TCB_PARTS
from tests.attest.amd import (
    AUTHOR_KEY,
    HOST_DATA,
    ID_KEY,
    MEASUREMENT,
    PROVIDER,
    SMT,
    TCB,
    TURIN_TCB,
    certificate,
    ia5,
    report,
    spl,
    turin,
    verify,
)

MINIMUM = {"Milan": {"bootloader": 3, "tee": 2, "snp": 8, "microcode": 115}}
TURIN_MINIMUM = {"Turin": {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 5}}
PINNED: dict[str, Any] = {"signers": (ID_KEY.hex(),), "min_svn": 1}


def made(settings: dict[str, Any] | None = None, **fields: Any) -> Any:
    key, chain = certificate()
    return verify(report(key, **fields), chain, **(settings or {}))


# ---- firmware ---------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["reported", "current", "committed", "launch"])
@pytest.mark.parametrize(
    ("byte", "part", "extension"),
    [
        (0, "bootloader", "x3_1"),
        (1, "tee", "x3_2"),
        (6, "snp", "x3_3"),
        (7, "microcode", "x3_8"),
    ],
)
def test_every_tcb_is_held_against_every_minimum(
    which: str, byte: int, part: str, extension: str
) -> None:
    """A guest launched under old firmware, or a host that can go back to it, is refused."""
    old = bytearray(TCB)
    old[byte] -= 1
    settings = {"snp": {"min_tcb": MINIMUM}}
    assert made(settings).tcb_status == "MinimumMet"
    key, chain = certificate(**{extension: spl(old[byte])} if which == "reported" else {})
    with pytest.raises(TcbOutOfDateError, match=f"the {which} TCB .*: {part} {old[byte]} "):
        verify(report(key, **{which: bytes(old)}), chain, **settings)


def test_turin_has_an_fmc_and_another_layout() -> None:
    key, chain = turin()
    tcbs = dict.fromkeys(("reported", "current", "committed", "launch"), TURIN_TCB)
    chip = bytes(range(8)) + bytes(56)
    raw = report(key, chip=chip, version=3, cpuid=b"\x1a\x02\x01", **tcbs)
    claims = verify(raw, chain, snp={"min_tcb": TURIN_MINIMUM})
    assert claims.tcb_status == "MinimumMet"
    assert claims.details["reported TCB"] == "fmc 1, bootloader 2, tee 3, snp 4, microcode 5"
    for part in TCB_PARTS["Turin"]:
        least = {"Turin": TURIN_MINIMUM["Turin"] | {part: 6}}
        with pytest.raises(TcbOutOfDateError, match=f"{part} . "):
            verify(raw, chain, snp={"min_tcb": least})


def test_versions_of_another_product_do_not_count() -> None:
    with pytest.raises(TcbOutOfDateError, match=r"no firmware versions .* for Milan"):
        made({"snp": {"min_tcb": {"Genoa": MINIMUM["Milan"]}}})
    with pytest.raises(TcbOutOfDateError, match="for Milan"):
        made({"snp": {"min_tcb": {}}})


def test_minima_of_zero_are_unchecked() -> None:
    zeros = {"Milan": dict.fromkeys(MINIMUM["Milan"], 0)}
    assert made({"snp": {"min_tcb": zeros}}).tcb_status == "Unchecked"
    with pytest.raises(TcbOutOfDateError, match="is Unchecked"):
        made({"snp": {"min_tcb": zeros}, "tcb_statuses": ("MinimumMet",)})


@pytest.mark.parametrize("product", TCB_PARTS)
def test_a_policy_states_every_part(product: str) -> None:
    whole = dict.fromkeys(TCB_PARTS[product], 0)  # type: ignore[index]
    SnpPolicy(min_tcb={product: whole})
    for part in whole:
        lacking = {name: least for name, least in whole.items() if name != part}
        with pytest.raises(ValidationError, match="needs exactly"):
            SnpPolicy(min_tcb={product: lacking})
    if product != "Turin":
        with pytest.raises(ValidationError, match="needs exactly"):
            SnpPolicy(min_tcb={product: whole | {"fmc": 0}})
    for value in (-1, 256):
        with pytest.raises(ValidationError):
            SnpPolicy(min_tcb={product: whole | {"snp": value}})


def test_a_policy_of_sev_snp_has_that_part() -> None:
    with pytest.raises(ValidationError, match="sev-snp needs"):
        AppraisalPolicy(kinds={Kind.SEV_SNP: KindPolicy(measurements="any")})
    extra = KindPolicy(measurements="any", snp=SnpPolicy(min_tcb={}))
    with pytest.raises(ValidationError, match="snp has no meaning for tdx"):
        AppraisalPolicy(kinds={Kind.TDX: extra})


# ---- the guest's identity ---------------------------------------------------------------------


def test_security_version_counts_only_under_a_pinned_id_key() -> None:
    """Whoever launches a guest writes any version into an ID block of his own."""
    with pytest.raises(ValidationError, match="min_svn says nothing without signers"):
        made({"min_svn": 1})
    assert made(PINNED).signer == ID_KEY.hex()
    with pytest.raises(UnknownSignerError, match="signed by 5555"):
        made(PINNED, id_key=b"\x55" * 48, svn=99)
    with pytest.raises(UnknownSignerError, match="signed by nobody"):
        made(PINNED, id_key=bytes(48), svn=99)
    with pytest.raises(SvnTooLowError, match="version 0 "):
        made(PINNED, svn=0)
    made(PINNED, svn=2**32 - 1)


def test_author_key_is_pinned_beside_the_id_key() -> None:
    named = PINNED | {"snp": {"author_keys": (AUTHOR_KEY.hex(),)}}
    assert made(named, author_key=AUTHOR_KEY).details["author key"] == AUTHOR_KEY.hex()
    with pytest.raises(UnknownSignerError, match="certified by a0a0"):
        made(PINNED, author_key=AUTHOR_KEY)
    with pytest.raises(UnknownSignerError, match="certified by 0b0b"):
        made(named, author_key=b"\x0b" * 48)
    for settings in (named, {"snp": named["snp"]}):
        with pytest.raises(UnknownSignerError, match="certified by nobody"):
            made(settings)
    made({}, author_key=AUTHOR_KEY)  # nothing is pinned, so nothing is checked


def test_measurement() -> None:
    made({"measurements": (MEASUREMENT.hex(),)})
    with pytest.raises(UnknownMeasurementError):
        made({"measurements": ("ab" * 48,)})


def test_host_data() -> None:
    made({"snp": {"host_data": ("00" * 32, HOST_DATA.hex())}})
    with pytest.raises(GuestPolicyError, match="the host gave the guest 0000"):
        made({"snp": {"host_data": (HOST_DATA.hex(),)}}, host_data=bytes(32))
    with pytest.raises(GuestPolicyError):
        made({"snp": {"host_data": ()}})


# ---- bits -------------------------------------------------------------------------------------

BARE = 1 << 17
TIGHTENING = {
    20: "single-socket",
    22: "mem-aes-256-xts",
    23: "rapl-disabled",
    24: "ciphertext-hiding",
    25: "page-swap-disabled",
}
PLATFORM = {
    0: "smt",
    1: "tsme",
    2: "ecc",
    3: "rapl-disabled",
    4: "ciphertext-hiding",
    5: "alias-check",
    6: "iommu-write-safe",
}


def test_bits_of_the_guest_policy_that_loosen_it() -> None:
    """Refused unless the policy allows them; debugging and migration it cannot allow."""
    assert made({"allow": ()}, policy_bits=BARE, platform=0).features == ()
    for number, name in ((16, "smt"), (21, "cxl")):
        bits = BARE | 1 << number
        with pytest.raises(PlatformNotAllowedError, match=f"has {name}, which"):
            made({"allow": ()}, policy_bits=bits, platform=0)
        assert made({"allow": (name,)}, policy_bits=bits, platform=0).features == (name,)
    everything = {"allow": ("smt", "cxl", "tio")}
    with pytest.raises(DebugEnclaveError):
        made(everything, policy_bits=BARE | 1 << 19)
    with pytest.raises(GuestPolicyError, match="migrated"):
        made(everything, policy_bits=BARE | 1 << 18)


@pytest.mark.parametrize("number", [26, 27, 40, 63])
def test_unknown_bits_of_the_guest_policy(number: int) -> None:
    with pytest.raises(MalformedEvidenceError, match="guest policy has unknown bits"):
        made(policy_bits=SMT | 1 << number)


def test_reserved_bit_and_abi_version_of_the_guest_policy() -> None:
    made(policy_bits=SMT | 0xFFFF)
    with pytest.raises(MalformedEvidenceError, match="must be one"):
        made(policy_bits=1 << 16)


@pytest.mark.parametrize(("number", "name"), TIGHTENING.items())
def test_required_bits_of_the_guest_policy(number: int, name: str) -> None:
    settings = {"snp": {"require_guest_policy": (name,)}}
    made(settings, policy_bits=SMT | 1 << number)
    others = sum(1 << other for other in TIGHTENING if other != number)
    with pytest.raises(GuestPolicyError, match=f"guest policy lacks {name}"):
        made(settings, policy_bits=SMT | others)


@pytest.mark.parametrize(("number", "name"), PLATFORM.items())
def test_required_properties_of_the_machine(number: int, name: str) -> None:
    settings = {"snp": {"require_platform": (name,)}}
    assert name in made(settings, platform=1 << number).details["machine"]
    with pytest.raises(PlatformNotAllowedError, match=f"machine lacks {name}"):
        made(settings, platform=0x7F & ~(1 << number))


def test_properties_of_the_machine_that_loosen_it() -> None:
    for number, name in ((0, "smt"), (7, "tio")):
        with pytest.raises(PlatformNotAllowedError, match=f"has {name}, which"):
            made({"allow": ()}, policy_bits=BARE, platform=1 << number)
        made({"allow": (name,)}, policy_bits=BARE, platform=1 << number)
    for number in (8, 31, 63):
        with pytest.raises(MalformedEvidenceError, match="platform information has unknown"):
            made(platform=1 << number)


@pytest.mark.parametrize(("vmpl", "most"), [(0, 0), (1, 1), (3, 3)])
def test_privilege_level(vmpl: int, most: int) -> None:
    for none in (-1, 4):
        with pytest.raises(ValidationError):
            SnpPolicy(min_tcb={}, max_vmpl=none)
    made({"snp": {"max_vmpl": most}}, vmpl=vmpl)
    with pytest.raises(GuestPolicyError, match=f"VMPL {vmpl + 1}"):
        made({"snp": {"max_vmpl": most}}, vmpl=vmpl + 1)


# ---- the signing key --------------------------------------------------------------------------


def test_vlek_only_of_a_named_provider() -> None:
    """A VLEK is held by a cloud provider: its name is all that tells one from another."""
    key, chain = certificate("SEV-VLEK")
    raw = report(key, flags=1 << 2, chip=bytes(64))
    with pytest.raises(BadChainError, match=r"a VLEK of 'CN=cloud\.example', which"):
        verify(raw, chain)
    with pytest.raises(BadChainError, match="VLEK of"):
        verify(raw, chain, snp={"vlek_providers": ("CN=other.example", PROVIDER.upper())})
    claims = verify(raw, chain, snp={"vlek_providers": (PROVIDER,)})
    assert claims.details["signed by"] == f"VLEK of {PROVIDER}"
    assert verify(raw, chain, snp={"vlek_providers": "any"}).platform == ""
    for provider in ("c", "c" * 127):
        key, chain = certificate("SEV-VLEK", x5=ia5(provider))
        verify(report(key, flags=1 << 2), chain, snp={"vlek_providers": (provider,)})
    for wrong in (b"", ia5(""), ia5("c" * 128), ia5("c") + b"c", b"\x0c" + ia5("c")[1:]):
        key, chain = certificate("SEV-VLEK", x5=wrong)
        with pytest.raises(BadChainError, match="names no cloud provider"):
            verify(report(key, flags=1 << 2), chain, snp={"vlek_providers": "any"})


def test_a_state_that_is_not_asked_about_or_not_stated_is_refused() -> None:
    claims = made()
    with pytest.raises(KindNotAllowedError, match="do not fit"):
        KindPolicy(measurements="any").check(claims)
    accepted = KindPolicy(measurements="any", snp=SnpPolicy(min_tcb=MINIMUM))
    with pytest.raises(KindNotAllowedError, match="do not fit"):
        accepted.check(claims.model_copy(update={"snp": None}))


def test_every_fault_is_told() -> None:
    """`check` raises the first; a person is told all."""
    key, chain = certificate()
    claims = verify(report(key, vmpl=2, platform=0), chain, snp={"max_vmpl": 3})
    strict = KindPolicy(
        measurements=(),
        signers=(),
        platforms=(),
        snp=SnpPolicy(min_tcb={}, host_data=(), require_platform=("ecc",)),
    )
    told = [type(fault) for fault in strict.faults(claims)]
    assert told == [
        UnknownMeasurementError,
        UnknownSignerError,
        PlatformNotAllowedError,
        TcbOutOfDateError,
        GuestPolicyError,
        PlatformNotAllowedError,
        GuestPolicyError,
        TcbOutOfDateError,
        PlatformNotAllowedError,
    ]
