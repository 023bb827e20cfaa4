"""What hardware keeps the operator out: SGX, TDX, SEV-SNP, as a guest of them and as their host.

Sources: Linux Documentation/arch/x86/{sgx,tdx}.rst, Documentation/virt/coco/sev-guest.rst,
Documentation/ABI/testing/configfs-tsm-report. Tried with made-up file trees only.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import re

from sealtune.doctor.finding import Finding, State, found, summed_up
from sealtune.doctor.machine import Machine
from sealtune.doctor.processor import flags

KINDS = ("sgx", "tdx", "sev-snp")  # kinds of evidence that a role can show
TSM = "sys/kernel/config/tsm/report"
TSM_KERNEL = (6, 7)
_AESM = "var/run/aesmd/aesm.socket"
_GRAMINE = "dev/attestation"  # there inside an enclave only
_EPC = "sys/devices/system/node"


def trusted_hardware(machine: Machine) -> list[Finding]:
    """A finding for each kind, after those of its parts."""
    findings: list[Finding] = []
    for key, what, parts in (
        ("sgx", "SGX", _sgx(machine)),
        ("tdx", "TDX guest", _guest(machine, "tdx", "tdx_guest")),
        ("sev-snp", "SEV-SNP guest", _guest(machine, "sev-snp", "sev_guest")),
        ("tdx-host", "TDX host", _tdx_host(machine)),
        ("sev-snp-host", "SEV-SNP host", _snp_host(machine)),
    ):
        findings += [*parts, summed_up(key, what, parts)]
    return findings


def _sgx(machine: Machine) -> list[Finding]:
    if machine.exists(_GRAMINE):
        kind = machine.text(f"{_GRAMINE}/attestation_type")
        remedy = 'set sgx.remote_attestation = "dcap" in the manifest'
        words = f"inside Gramine, remote attestation {kind}"
        return [found("sgx.gramine", kind == "dcap", words, remedy)]
    has = flags(machine)
    device = machine.exists("dev/sgx_enclave")
    provision = machine.exists("dev/sgx_provision")
    aesm, gramine = machine.exists(_AESM), machine.has_program("gramine-sgx")
    here = "sgx" in has and device
    return [
        found(
            "sgx.enclave",
            here,
            "/dev/sgx_enclave" if here else _why_no_sgx(has, device),
            "a processor with SGX, switched on in the firmware; Linux 5.11 or later",
        ),
        _epc(machine),
        found(
            "sgx.provision",
            provision,
            "/dev/sgx_provision" if provision else "no /dev/sgx_provision",
            "the service that makes quotes needs it: group sgx_prv",
        ),
        found(
            "sgx.aesmd",
            aesm,
            "aesmd answers" if aesm else f"no /{_AESM}",
            "install sgx-aesm-service and libsgx-dcap-ql from Intel's repository, start aesmd",
        ),
        found(
            "sgx.gramine",
            gramine,
            "gramine-sgx" if gramine else "no gramine-sgx",
            "install gramine from its own repository (https://gramine.readthedocs.io)",
        ),
    ]


def _why_no_sgx(has: frozenset[str], device: bool) -> str:
    if "sgx" in has:
        return "the processor has it, /dev/sgx_enclave is not there"
    return "/dev/sgx_enclave without the processor's flag" if device else "no"


def _epc(machine: Machine) -> Finding:
    """Enclave memory of all nodes, which Linux tells since 5.16."""
    nodes = [name for name in machine.names(_EPC) if re.fullmatch(r"node\d+", name)]
    told = [machine.text(f"{_EPC}/{node}/x86/sgx_total_bytes") for node in nodes]
    numbers = [int(text) for text in told if text and text.isdecimal()]
    key, total = "sgx.memory", sum(numbers)
    if not numbers:
        return Finding(
            key, State.UNKNOWN, "enclave memory not told", "Linux 5.16 or later tells it"
        )
    words = f"{total / 2**30:.3g} GiB of enclave memory"
    return found(key, total > 0, words, "give enclaves memory in the firmware", value=total)


def _guest(machine: Machine, key: str, name: str) -> list[Finding]:
    device = f"dev/{name.replace('sev_guest', 'sev-guest')}"
    there, tsm = machine.exists(device), machine.exists(TSM)
    return [
        found(
            f"{key}.device",
            there,
            f"/{device}" if there else "no",
            f"start the enclave in such a guest; in one, modprobe {name}",
        ),
        found(
            f"{key}.reports",
            tsm,
            f"/{TSM}" if tsm else f"no /{TSM}",
            "mount -t configfs none /sys/kernel/config; Linux {}.{} or later with "
            "CONFIG_TSM_REPORTS; modprobe {}".format(*TSM_KERNEL, name),
        ),
    ]


def _tdx_host(machine: Machine) -> list[Finding]:
    on = machine.setting("kvm_intel/parameters/tdx")
    remedy = "a processor with TDX, on in the firmware; Linux 6.16 or later with kvm_intel.tdx=1"
    return [found("tdx-host.kvm", on, "kvm_intel.tdx=Y" if on else "no", remedy)]


def _snp_host(machine: Machine) -> list[Finding]:
    on = machine.setting("kvm_amd/parameters/sev_snp")
    device = machine.exists("dev/sev")
    why = (
        "no" if "sev_snp" not in flags(machine) else "the processor has it, kvm_amd.sev_snp is off"
    )
    return [
        found(
            "sev-snp-host.kvm",
            on,
            "kvm_amd.sev_snp=Y" if on else why,
            "EPYC 7003 or later, SNP and its RMP on in the firmware; Linux 6.11 or later with "
            "kvm_amd.sev_snp=1",
        ),
        found(
            "sev-snp-host.firmware",
            device,
            "/dev/sev" if device else "no /dev/sev",
            "modprobe ccp",
        ),
    ]
