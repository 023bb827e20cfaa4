"""What the doctor finds on made-up machines, and what it makes of it for each role."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sealtune.attest.evidence import Kind
from sealtune.attest.platforms import platform
from sealtune.doctor.examine import examine
from sealtune.doctor.finding import Finding, State
from sealtune.doctor.host import disk, key_files, ports
from sealtune.doctor.machine import Machine
from sealtune.doctor.roles import DEMANDS, PROGRAMS, Colour, Role, Verdict, judge
from tests.doctor import machines

Maker = Callable[[Path], Machine]
G, P, M, U = State.GOOD, State.POOR, State.MISSING, State.UNKNOWN


def look(machine: Machine, tmp_path: Path) -> dict[str, Finding]:
    findings = examine(machine, {}, state=tmp_path)
    by_key = {finding.key: finding for finding in findings}
    assert len(by_key) == len(findings)  # JSON has one entry for each
    return by_key


def colours(verdict: Verdict) -> dict[str, Colour]:
    return {finding.key: colour for finding, colour in verdict.colours}


def hardware(found: dict[str, Finding]) -> dict[str, State]:
    kinds = ("sgx", "tdx", "sev-snp", "tdx-host", "sev-snp-host")
    return {kind: found[kind].state for kind in kinds if found[kind].state is not M}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (machines.laptop, {}),
        (machines.sgx_server, {"sgx": G}),
        (machines.tdx_guest, {"tdx": G}),
        (machines.snp_guest, {"sev-snp": G}),
        (machines.snp_host, {"sev-snp-host": G}),
        (machines.tdx_host, {"tdx-host": G}),
    ],
)
def test_each_machine_has_its_hardware_and_no_other(
    make: Maker, expected: dict[str, State], tmp_path: Path
) -> None:
    assert hardware(look(make(tmp_path), tmp_path)) == expected


@pytest.mark.parametrize(
    ("make", "kind"), [(machines.tdx_guest, Kind.TDX), (machines.snp_guest, Kind.SEV_SNP)]
)
@pytest.mark.parametrize("taken", ["", "device", "sys/kernel/config/tsm/report"])
def test_a_guest_is_good_exactly_where_evidence_can_be_made(
    make: Maker, kind: Kind, taken: str, tmp_path: Path
) -> None:
    machine = make(tmp_path)
    device = "dev/tdx_guest" if kind is Kind.TDX else "dev/sev-guest"
    gone = tmp_path / (device if taken == "device" else taken)
    if taken == "device":
        gone.unlink()
    elif taken:
        gone.rmdir()
    good = look(machine, tmp_path)[str(kind)].state is G
    assert good == (not platform(kind, tmp_path).missing())
    assert good == (not taken)


@pytest.mark.parametrize(
    ("gone", "state", "word"),
    [
        ("usr/bin/gramine-sgx", P, "gramine"),
        ("var/run/aesmd/aesm.socket", P, "aesm"),
        ("dev/sgx_provision", P, "sgx_prv"),
        ("dev/sgx_enclave", M, "firmware"),
    ],
)
def test_what_sgx_lacks_is_named(gone: str, state: State, word: str, tmp_path: Path) -> None:
    machine = machines.sgx_server(tmp_path)
    (tmp_path / gone).unlink()
    sgx = look(machine, tmp_path)["sgx"]
    assert sgx.state is state
    assert word in sgx.remedy


def test_enclave_memory_of_all_nodes(tmp_path: Path) -> None:
    assert look(machines.sgx_server(tmp_path), tmp_path)["sgx.memory"].value == 64 << 30


def test_inside_gramine_only_the_kind_of_attestation_counts(tmp_path: Path) -> None:
    machine = machines.machine(tmp_path, {"dev/attestation/attestation_type": "dcap\n"})
    assert look(machine, tmp_path)["sgx"].state is G
    (tmp_path / "dev/attestation/attestation_type").write_text("none\n")
    assert look(machine, tmp_path)["sgx"].state is M


def test_a_laptop_as_a_site_and_as_a_server(tmp_path: Path) -> None:
    found = look(machines.laptop(tmp_path), tmp_path).values()
    site = judge(Role.SITE, found)
    amber = {name for name, colour in colours(site).items() if colour is Colour.AMBER}
    leaks = {"swap", "hibernation", "core-dumps", "ptrace"}
    assert amber - {"disk", "versions"} == leaks | {
        "clock",
        "processor.int8",
        "processor.pads",
        "tee",
    }
    assert site.colour is Colour.AMBER
    assert judge(Role.SERVER, found).colour is Colour.RED
    assert judge(Role.SERVER, found, "simulated").colour is Colour.AMBER
    assert colours(judge(Role.SERVER, found, "none"))["tee"] is Colour.GREEN
    assert judge(Role.SITE, found, "sgx").colour is Colour.RED


def test_a_site_without_the_library_is_told_why(tmp_path: Path) -> None:
    without = machines.machine(tmp_path, {}, library=lambda: ("off", "it was not built"))
    site = judge(Role.SITE, look(without, tmp_path).values())
    assert colours(site)["processor.library"] is Colour.AMBER
    (words,) = [f.words for f, _ in site.colours if f.key == "processor.library"]
    assert words == "no C library: it was not built"


def test_a_host_of_guests_is_told_to_start_one(tmp_path: Path) -> None:
    found = look(machines.snp_host(tmp_path), tmp_path).values()
    verdict = judge(Role.SERVER, found, image=True)
    assert verdict.colour is Colour.AMBER
    (tee,) = [finding for finding, _ in verdict.colours if finding.key == "tee"]
    assert "guest" in tee.remedy
    assert {colours(verdict)[name] for name in ("qemu", "kvm")} == {Colour.GREEN}
    # the host of one kind makes no evidence of another
    assert judge(Role.SERVER, found, "tdx").colour is Colour.RED


@pytest.mark.parametrize(
    ("how", "state"), [("works", G), ("internal error", P), ("no answer", P), (None, U)]
)
def test_kvm_has_to_work_and_not_only_to_exist(
    how: str | None, state: State, tmp_path: Path
) -> None:
    machine = machines.machine(tmp_path, {"dev/kvm": ""}, kvm=lambda: how)
    assert look(machine, tmp_path)["kvm"].state is state
    assert look(machines.machine(tmp_path / "other", {}), tmp_path)["kvm"].state is M


@pytest.mark.parametrize(
    ("feature", "devtools", "architecture", "state", "value"),
    [
        (1, 0, 9, G, "on"),
        (1, 1, 9, M, "devtools"),
        (0, 0, 9, M, "off"),
        (0, 0, 8, M, "unable"),
        (1, 0, 10, G, "on"),
    ],
)
def test_a_gpu_by_nvml_and_by_nvidia_smi(
    feature: int, devtools: int, architecture: int, state: State, value: str, tmp_path: Path
) -> None:
    nvml = machines.FakeNvml(feature, devtools, architecture)
    words = ("OFF", "ON")
    smi = machines.smi(words[feature], words[devtools], f"{architecture}.0")
    first = look(machines.machine(tmp_path, {}, nvml=lambda: nvml), tmp_path)
    assert nvml.open == 0
    second = look(machines.machine(tmp_path, {}, run=smi), tmp_path)
    for found in (first, second):
        assert found["gpu"].value == ("NVIDIA H100 80GB HBM3",)
        assert found["gpu.driver"].value == "550.90.07"
        assert (found["gpu.confidential"].state, found["gpu.confidential"].value) == (state, value)
        asked = judge(Role.SERVER, found.values(), "none", gpu=True)
        assert (colours(asked)["gpu.confidential"] is Colour.GREEN) == (value == "on")
        # the accelerator is trusted by nobody: it needs none of that
        assert "gpu.confidential" not in colours(judge(Role.ACCELERATOR, found.values()))


def test_devtools_that_are_not_told_do_not_count_as_off(tmp_path: Path) -> None:
    found = look(machines.machine(tmp_path, {}, run=machines.smi("ON", "?")), tmp_path)
    assert found["gpu.confidential"].state is U


def test_a_gpu_without_tools_and_one_without_a_driver(tmp_path: Path) -> None:
    bus = "sys/bus/pci/devices/0000:01:00.0"
    card = {f"{bus}/vendor": "0x10de\n", f"{bus}/class": "0x030200\n"}
    bare = look(machines.machine(tmp_path / "bare", card), tmp_path)
    assert bare["gpu"].state is P
    assert bare["gpu"].install == ("nvidia-driver",)
    files = {
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07\n",
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H200\nIRQ: 1\n",
    }
    found = look(machines.machine(tmp_path / "driven", card | files), tmp_path)
    assert found["gpu"].value == ("NVIDIA H200",)
    assert found["gpu.driver"].value == "550.90.07"
    assert found["gpu.confidential"].state is U


def test_an_empty_machine_is_looked_at_without_a_crash(tmp_path: Path) -> None:
    found = look(Machine(tmp_path / "nothing"), tmp_path)
    assert hardware(found) == {}
    good = {name for name, finding in found.items() if finding.state is G}
    # what is read from this process, and what a machine without /sys cannot do
    assert good <= {"disk", "python", "versions", "sgx.memory", "hibernation"}
    for role in Role:
        assert judge(role, found.values()).colour is not Colour.GREEN


def test_everything_that_is_not_good_says_what_to_do(tmp_path: Path) -> None:
    found = look(Machine(tmp_path / "nothing"), tmp_path) | look(
        machines.laptop(tmp_path / "laptop"), tmp_path
    )
    assert [
        finding.key for finding in found.values() if finding.state is not G and not finding.remedy
    ] == []


OF_A_JOB = {"manifest", "coordinator", "coordinator.certificate", "coordinator.clock"}


def test_every_demand_is_of_something_that_is_looked_at(tmp_path: Path) -> None:
    found = look(machines.machine(tmp_path, {}, nvml=lambda: machines.FakeNvml(1, 0)), tmp_path)
    for role in Role:
        assert set(DEMANDS[role]) - set(found) - {"tee", "key", "port", *OF_A_JOB} == set()


@pytest.mark.parametrize(("kib", "state"), [(7_900_000, G), (4_000_000, P), (1_500_000, M)])
def test_memory_and_the_control_group_that_limits_it(
    kib: int, state: State, tmp_path: Path
) -> None:
    told = {"proc/meminfo": f"MemTotal: {kib} kB\n"}
    assert look(machines.machine(tmp_path / "a", told), tmp_path)["memory"].state is state
    limit = {"sys/fs/cgroup/memory.max": f"{kib * 1024}\n"}
    assert look(machines.machine(tmp_path / "b", limit), tmp_path)["memory"].state is state


@pytest.mark.parametrize(
    ("files", "key"),
    [
        ({"proc/swaps": "Filename Type\n/dev/sda2 partition 1 0 -2\n"}, "swap"),
        ({"sys/power/state": "mem disk", "sys/power/disk": "[platform]"}, "hibernation"),
        ({"proc/sys/kernel/core_pattern": "|/usr/bin/apport"}, "core-dumps"),
        ({"proc/self/limits": "Max core file size  unlimited unlimited bytes"}, "core-dumps"),
        ({"proc/sys/kernel/yama/ptrace_scope": "0"}, "ptrace"),
    ],
)
def test_ways_out_of_memory(files: dict[str, str], key: str, tmp_path: Path) -> None:
    assert look(machines.machine(tmp_path / "sound", {}), tmp_path)[key].state is G
    assert look(machines.machine(tmp_path / "leaky", files), tmp_path)[key].state is P


def test_a_clock_that_is_set_and_far_off_is_not_good(tmp_path: Path) -> None:
    off = machines.machine(tmp_path, {}, clock=lambda: machines.Clock(True, 16.0))
    assert look(off, tmp_path)["clock"].state is P


def test_a_taken_port_and_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen(1)
        number = taken.getsockname()[1]
        assert [finding.state for finding in ports([number])] == [M]
    assert [finding.state for finding in ports([number])] == [G]


@pytest.mark.parametrize(("mode", "state"), [(0o600, G), (0o400, G), (0o640, M), (0o604, M)])
def test_keys_that_others_can_read(mode: int, state: State, tmp_path: Path) -> None:
    path = tmp_path / "north.key"
    path.write_text("")
    path.chmod(mode)
    (finding,) = key_files([path])
    assert finding.state is state
    for role in Role:  # and this counts for everybody
        red = colours(judge(role, [*look(Machine(tmp_path), tmp_path).values(), finding]))
        assert (red[finding.key] is Colour.RED) == (state is M)
    assert key_files([tmp_path / "none.key"])[0].state is M


def test_space_is_that_of_the_folder_above_one_that_is_not_there(tmp_path: Path) -> None:
    assert disk(tmp_path / "state" / "of" / "runs").value is not None


def test_every_role_finds_the_packages_of_its_programs_here(tmp_path: Path) -> None:
    programs = {str(role): PROGRAMS[role] for role in Role}
    found = {f.key: f for f in examine(Machine(tmp_path), programs, state=tmp_path)}
    for role in Role:
        assert found[f"packages.{role}"].state is G
        assert colours(judge(role, found.values()))[f"packages.{role}"] is Colour.GREEN
