"""Kubernetes and Slurm: what the examples say agrees with the commands, local files and itself."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import typer
import yaml

from sealtune.cli.main import app
from sealtune.job.local import Local
from sealtune.job.local_file import load_local
from sealtune.sockets import parse

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"
DOCUMENTS: list[dict[str, Any]] = [
    document
    for document in yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    if document
]
PARTIES = {
    "sealtune-coordinator": "coordinator",
    "sealtune-server": "server",
    "sealtune-north": "site",
    "sealtune-north-gpu": "accelerator",
}


def of(kind: str, namespace: str) -> dict[str, Any]:
    """The one object of a kind in a party's namespace."""
    (found,) = (
        one
        for one in DOCUMENTS
        if one["kind"] == kind and one["metadata"].get("namespace") == namespace
    )
    return found


def workload(namespace: str) -> dict[str, Any]:
    kind = "Deployment" if PARTIES[namespace] == "accelerator" else "StatefulSet"
    return of(kind, namespace)


def pod(namespace: str) -> dict[str, Any]:
    spec: dict[str, Any] = workload(namespace)["spec"]["template"]["spec"]
    return spec


def containers(namespace: str) -> Iterator[dict[str, Any]]:
    yield from pod(namespace).get("initContainers", [])
    yield from pod(namespace)["containers"]


def options(command: str) -> set[str]:
    """Options of a command of sealtune's."""
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    return {word for parameter in found.params for word in parameter.opts}


def check_command(words: list[str]) -> tuple[str, str]:
    """Whether there is such a command with such options; its role and local file."""
    program, role, *rest = words
    assert program == "sealtune"
    assert {word for word in rest if word.startswith("-")} <= options(role)
    return role, rest[rest.index("--local") + 1]


def mount_of(path: str, mounts: list[dict[str, Any]]) -> dict[str, Any]:
    """The mount that a path is in."""
    found = [one for one in mounts if PurePosixPath(path).is_relative_to(one["mountPath"])]
    assert found, f"{path} is in none of {[one['mountPath'] for one in mounts]}"
    return found[0]


def local_of(namespace: str, folder: Path) -> Local:
    file = folder / "local.toml"
    file.write_text(of("ConfigMap", namespace)["data"]["local.toml"])
    return load_local(file)


def test_the_parties_are_these() -> None:
    names = {one["metadata"]["name"] for one in DOCUMENTS if one["kind"] == "Namespace"}
    assert names == PARTIES.keys()
    assert {
        one["metadata"]["namespace"] for one in DOCUMENTS if one["kind"] != "Namespace"
    } == names


@pytest.mark.parametrize("namespace", PARTIES)
def test_command_and_local_file_agree(namespace: str, tmp_path: Path) -> None:
    (container,) = pod(namespace)["containers"]
    bash, flag, line = container["command"]
    assert (bash, flag) == ("bash", "-c")
    command = re.fullmatch(r"exec (sealtune .+) > >\(tee (\S+)\)", line)
    assert command is not None
    role, file = check_command(shlex.split(command[1]))
    local = local_of(namespace, tmp_path)
    assert role == local.role == PARTIES[namespace]
    mounts = container["volumeMounts"]
    assert mount_of(file, mounts)["name"] == "party"
    assert mount_of(str(local.manifest), mounts)["name"] == "job"
    assert not mount_of(str(local.folder), mounts).get("readOnly")
    assert not mount_of(command[2], mounts).get("readOnly")
    for key in (local.tls_key, local.node_key, local.key):
        assert key is None or mount_of(str(key), mounts)["name"] == "keys"
    for place in (local.model and local.model.path, local.data and str(local.data.train)):
        assert place is None or mount_of(place, mounts)["readOnly"]
    address = parse(local.listen)
    assert address.scheme == "tcp" or not mount_of(address.place, mounts).get("readOnly")
    assert container["readinessProbe"]["exec"]["command"][-1] == command[2]


@pytest.mark.parametrize("namespace", PARTIES)
def test_every_volume_is_there_and_used(namespace: str) -> None:
    claims = workload(namespace)["spec"].get("volumeClaimTemplates", [])
    names = [one["name"] for one in pod(namespace)["volumes"]]
    names += [one["metadata"]["name"] for one in claims]
    used = {mount["name"] for one in containers(namespace) for mount in one["volumeMounts"]}
    assert sorted(names) == sorted(used)


@pytest.mark.parametrize("namespace", PARTIES)
def test_pods_are_restricted(namespace: str) -> None:
    label = "pod-security.kubernetes.io/enforce"
    (home,) = (one for one in DOCUMENTS if one["metadata"]["name"] == namespace)
    assert home["metadata"]["labels"][label] == "restricted"
    spec = pod(namespace)
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for container in containers(namespace):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("namespace", PARTIES)
def test_keys_are_copied_so_that_only_their_owner_reads_them(namespace: str) -> None:
    spec = pod(namespace)
    if PARTIES[namespace] == "accelerator":
        assert "initContainers" not in spec  # it has none
        return
    (copying,) = spec["initContainers"]
    assert copying["command"] == ["bash", "-c", "install --mode=0600 /secret/* /keys/"]
    (main,) = spec["containers"]
    assert "secret" not in {mount["name"] for mount in main["volumeMounts"]}
    (keys,) = (one for one in spec["volumes"] if one["name"] == "keys")
    assert keys["emptyDir"]["medium"] == "Memory"


def reach(namespace: str, way: str) -> list[tuple[str, int]]:
    """What a party may connect to, or be reached by: whom, and at which port."""
    policy = of("NetworkPolicy", namespace)["spec"]
    assert policy["podSelector"] == {}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    found = []
    for rule in policy[way]:
        for peer in rule.get("to", rule.get("from", [{}])):
            whom = peer.get("ipBlock", {}).get("cidr") or peer.get("namespaceSelector", {}).get(
                "matchLabels", {}
            ).get("kubernetes.io/metadata.name", "everybody")
            found += [(whom, port["port"]) for port in rule["ports"]]
    return found


def test_only_what_must_be_reached_is(tmp_path: Path) -> None:
    relay = pod("sealtune-north")["hostAliases"][0]["ip"] + "/32"
    for namespace in PARTIES:
        (tmp_path / namespace).mkdir()
    local = {name: local_of(name, tmp_path / name) for name in PARTIES}
    coordinator, gpu = local["sealtune-coordinator"], local["sealtune-north-gpu"]
    sites, server = parse(coordinator.listen).port, parse(coordinator.listen_server).port
    masked = parse(gpu.listen).port
    assert reach("sealtune-north", "egress") == [(relay, sites), ("sealtune-north-gpu", masked)]
    assert reach("sealtune-server", "egress") == [(relay, server)]
    assert reach("sealtune-coordinator", "egress") == reach("sealtune-north-gpu", "egress") == []
    assert reach("sealtune-north", "ingress") == reach("sealtune-server", "ingress") == []
    assert reach("sealtune-coordinator", "ingress") == [("everybody", sites), ("everybody", server)]
    assert reach("sealtune-north-gpu", "ingress") == [("sealtune-north", masked)]
    service = of("Service", "sealtune-north-gpu")["spec"]
    address = parse(local["sealtune-north"].accelerator)
    assert (address.place, address.port) == (service["clusterIP"], service["ports"][0]["port"])
    assert pod("sealtune-server")["hostAliases"] == pod("sealtune-north")["hostAliases"]


@pytest.mark.parametrize("namespace", PARTIES)
def test_a_party_is_there_once(namespace: str) -> None:
    spec = workload(namespace)["spec"]
    assert spec["replicas"] == 1
    for claim in spec.get("volumeClaimTemplates", []):  # two would write one state
        assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


SCONTROL = """#!/bin/bash
[ "$1 $2" = "show hostnames" ] && echo gpu7 || echo "scontrol $*" >> calls
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do case $1 in --output=*) exec > "${1#*=}";; esac; shift; done
exec "$@"
"""
SEALTUNE = """#!/bin/bash
echo "$*" >> calls
trap 'echo "$1 stopped" >> calls; exit 0' TERM
if [ "$1" = accelerator ]; then sleep 0.2; echo '{"event":"ready","role":"accelerator"}'; fi
[ -e "$1.ends" ] && exit "$(cat "$1.ends")"
sleep 60 & wait
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for Slurm and sealtune, which write down how they are called."""
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN), ("sealtune", SEALTUNE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST_HET_GROUP_1": "gpu7"}


def submit(folder: Path, slurm: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", EXAMPLES / "site.sbatch"], cwd=folder, env=slurm)


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_site_starts_when_its_accelerator_stands(tmp_path: Path, slurm: dict[str, str]) -> None:
    (tmp_path / "site.ends").write_text("7")
    assert submit(tmp_path, slurm).wait(60) == 7  # the site's own code
    accelerator, site, *rest = calls(tmp_path)
    assert rest == ["accelerator stopped"]
    for line, name in ((accelerator, "accelerator"), (site, "site")):
        role, file = check_command(["sealtune", *line.split()])
        local = load_local(Path(file))
        assert role == local.role == name
        assert local.manifest.resolve() == tmp_path / "job.manifest.json"
    assert load_local(tmp_path / "parties" / "north.toml").accelerator == "tcp:gpu7:9100"


def test_preempted_both_steps_end_and_the_job_comes_back(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    process = submit(tmp_path, slurm)
    end = time.monotonic() + 60
    while len(calls(tmp_path)) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert calls(tmp_path)[2:] == ["site stopped", "accelerator stopped", "scontrol requeue 1"]


def test_an_accelerator_that_does_not_start_ends_the_job(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    (tmp_path / "sealtune").write_text("#!/bin/bash\nexit 3\n")
    assert submit(tmp_path, slurm).wait(60) == 1
    assert calls(tmp_path) == []


def test_slurm_is_given_no_environment_and_asked_to_bring_it_back() -> None:
    text = (EXAMPLES / "site.sbatch").read_text()
    asked = {word for line in re.findall(r"^#SBATCH (.*)$", text, re.M) for word in line.split()}
    assert {"--export=NONE", "--requeue", "--open-mode=append", "hetjob"} <= asked
