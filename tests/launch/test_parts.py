"""The launcher's parts that need no process: threads, ports, keys, folder, log, environment."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import (
    load_ssh_private_key,
    load_ssh_public_key,
)
from safetensors.numpy import load_file, save

from sealtune.errors import FederationError, PortInUseError, StorageError
from sealtune.job.events import Done, Ready
from sealtune.launch import check, collect_adapter, prepare
from sealtune.launch.credentials import make_credentials
from sealtune.launch.environment import program, variables, versions
from sealtune.launch.flower import Flower, environment
from sealtune.launch.metrics import MetricsLog
from sealtune.launch.ports import check_port, free_port
from sealtune.launch.threads import cores, thread_settings


@pytest.mark.parametrize(
    ("role", "sites", "available", "threads"),
    [
        ("client", 2, 8, "4"),
        ("client", 3, 8, "2"),
        ("client", 5, 2, "1"),
        ("accelerator", 5, 2, "2"),
        ("pad-accelerator", 5, 2, "2"),
        ("server", 2, 8, "1"),
    ],
)
def test_threads(role: str, sites: int, available: int, threads: str) -> None:
    settings = thread_settings(role, sites, available)
    pages = settings.pop("GLIBC_TUNABLES", None)
    assert settings == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": threads}
    assert pages == (None if role in ("server", "client") else "glibc.malloc.hugetlb=1")
    assert cores() >= 1


def test_a_free_port_can_be_used() -> None:
    check_port(free_port())


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} ") as caught:
            check_port(port)
        assert "--port" in caught.value.hint


def test_tls_works_with_the_relays_own_certificate_and_no_other(tmp_path: Path) -> None:
    ours = make_credentials(tmp_path / "a", ("x",))
    theirs = make_credentials(tmp_path / "b", ("x",))
    assert _handshake(ours.certificate, ours.key, ours.certificate) == "127.0.0.1 ok"
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(theirs.certificate, theirs.key, ours.certificate)


def _handshake(certificate: Path, key: Path, ca: Path) -> str:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(left, server_side=True) as tls:
                tls.recv(1)
        except OSError:
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(right, server_hostname="127.0.0.1") as tls:
            tls.sendall(b"x")
            return "127.0.0.1 ok"
    finally:
        right.close()
        thread.join(5)


def test_node_keys_are_p384_pairs_and_private(tmp_path: Path) -> None:
    made = make_credentials(tmp_path / "keys", ("a", "b"))
    for path in made.nodes.values():
        private = load_ssh_private_key(path.read_bytes(), None)
        public = load_ssh_public_key(Path(f"{path}.pub").read_bytes())
        assert private.public_key() == public
        assert public.key_size == 384  # type: ignore[union-attr]
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_the_engine_gets_its_own_files_and_listens_to_this_machine(tmp_path: Path) -> None:
    made = make_credentials(tmp_path / "keys", ("a", "b"))
    flower = Flower(tmp_path, 1234, made)
    relay = flower.relay(tmp_path / "work.sock")
    node = flower.node("a", "/a.sock")
    settings = relay.variables
    assert settings == node.variables == environment(tmp_path)
    assert len(settings) == 4
    assert settings["FLWR_TELEMETRY_ENABLED"] == "0"
    assert settings["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    contents = []
    for command, module in ((relay.command, "relay"), (node.command, "node")):
        assert command == program(module, command[-1])
        contents.append(json.loads(Path(command[-1]).read_bytes()))
    assert contents[0]["host"] == "127.0.0.1"
    assert set(contents[0]["sites"]) == {"a", "b"}
    assert contents[1] == {
        "relay": "127.0.0.1:1234",
        "authority": str(made.certificate),
        "key": str(made.nodes["a"]),
        "socket": "/a.sock",
        "spool": str(tmp_path / "spool" / "a"),
        "patience": 0.0,
    }


def test_children_get_few_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = (
        "PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONSTARTUP", "HTTPS_PROXY", "FLWR_HOME",
        "HF_ENDPOINT", "TRANSFORMERS_VERBOSITY", "TORCH_LOGS", "SSL_CERT_FILE",
    )  # fmt: skip
    for name in hostile:
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("SEALTUNE_NATIVE", "avx2")
    found = variables({"X": "1"})
    assert not found.keys() & set(hostile)
    assert found["NO_PROXY"] == "127.0.0.1,localhost"
    assert (found["X"], found["ONEDNN_MAX_CPU_ISA"], found["HF_HUB_OFFLINE"]) == ("1", "AVX2", "1")
    assert found["SEALTUNE_NATIVE"] == "avx2"
    assert {"python", "flwr", "sealtune"} <= set(versions())


def test_a_new_run_folder(tmp_path: Path) -> None:
    prepare(tmp_path / "runs" / "x", force=False)
    assert (tmp_path / "runs" / "x" / "logs").is_dir()


def test_baselines_may_come_first(tmp_path: Path) -> None:
    (tmp_path / "baselines").mkdir()
    prepare(tmp_path, force=False)
    assert (tmp_path / "baselines").is_dir()


def finished_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("{}\n")
    return folder


def test_a_run_that_is_there_is_refused_continued_or_replaced(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "x")
    with pytest.raises(StorageError, match="holds a run already") as caught:
        prepare(run, force=False)
    assert "--resume" in caught.value.hint
    assert "--force" in caught.value.hint
    check(run, resume=True, force=False)
    assert (run / "metrics.jsonl").exists()
    prepare(run, force=True)
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_run_is_left_alone(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(StorageError, match="not a run of sealtune"):
        prepare(tmp_path, force=force)
    file = tmp_path / "thesis.doc"
    with pytest.raises(StorageError, match="not a run of sealtune"):
        prepare(file, force=force)
    assert file.read_text() == "years of work"


def test_force_does_not_follow_links(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "x")
    link = tmp_path / "link"
    link.symlink_to(run)
    prepare(link, force=True)
    assert (run / "metrics.jsonl").exists()
    assert link.is_dir()
    assert not link.is_symlink()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no run to resume"):
        check(tmp_path / "x", resume=True, force=False)


WEIGHTS = {
    "A": np.arange(24, dtype=np.float32).reshape(4, 6),
    "B": np.arange(20, dtype=np.float32).reshape(5, 4),
}


def at_rank(rank: int) -> dict[str, np.ndarray]:
    return {"A": WEIGHTS["A"][:rank].copy(), "B": WEIGHTS["B"][:, :rank].copy()}


def write_adapter(run: Path, site: str, weights: dict[str, np.ndarray] | bytes) -> None:
    folder = run / "sites" / site / "adapter"
    folder.mkdir(parents=True)
    data = weights if isinstance(weights, bytes) else save(weights)
    (folder / "adapter_model.safetensors").write_bytes(data)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "sealtune.json").write_text("{}")


def test_the_released_adapter_is_collected(tmp_path: Path) -> None:
    write_adapter(tmp_path, "b", WEIGHTS)
    write_adapter(tmp_path, "c", WEIGHTS)
    for _ in range(2):  # again, when a run is resumed
        collect_adapter(tmp_path, ("a", "b", "c"))
        target = tmp_path / "adapter"
        assert sorted(path.name for path in target.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "sealtune.json",
        ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "sites"]


def test_adapters_that_differ_are_not_passed_on(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="no site has written"):
        collect_adapter(tmp_path, ("a",))
    write_adapter(tmp_path, "a", WEIGHTS)
    write_adapter(tmp_path, "b", at_rank(3))
    write_adapter(tmp_path, "c", WEIGHTS | {"B": WEIGHTS["B"] + 1})
    write_adapter(tmp_path, "d", b"damaged")
    for other in ("b", "c"):
        with pytest.raises(FederationError, match="different adapters"):
            collect_adapter(tmp_path, ("a", other))
    with pytest.raises(FederationError, match="it is damaged"):
        collect_adapter(tmp_path, ("a", "d"))
    assert not (tmp_path / "adapter").exists()


def test_of_sites_of_different_ranks_the_highest_is_collected(tmp_path: Path) -> None:
    ranks = {"a": 1, "b": 3}
    for site, rank in ranks.items():
        write_adapter(tmp_path, site, at_rank(rank))
    write_adapter(tmp_path, "c", WEIGHTS)
    collect_adapter(tmp_path, ("a", "b", "c"), ranks=ranks)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")["A"].shape == (4, 6)
    collect_adapter(tmp_path, ("a", "b"), ranks=ranks)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")["A"].shape == (3, 6)


@pytest.mark.parametrize("name", ["A", "B"])
def test_a_lower_rank_has_the_first_directions_of_the_highest(tmp_path: Path, name: str) -> None:
    odd = at_rank(2)
    odd[name] = odd[name] + 1
    write_adapter(tmp_path, "a", odd)
    write_adapter(tmp_path, "b", WEIGHTS)
    with pytest.raises(FederationError, match="different adapters"):
        collect_adapter(tmp_path, ("a", "b"), ranks={"a": 2})


def test_metrics_are_lines_with_time_and_role(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m")
    log.append(Ready(role="server"))
    log.append(Done(role="client:a", time=0))
    log.close()
    first, second = map(json.loads, (tmp_path / "m").read_text().splitlines())
    assert (first["event"], first["role"]) == ("ready", "server")
    assert first["time"] > 1e9
    assert second["role"] == "client:a"
    assert second["time"] > 1e9


def test_a_full_disk_is_said_so() -> None:
    log = MetricsLog(Path("/dev/full"))
    with pytest.raises(StorageError, match="disk is full"):
        log.append(Ready(role="server"))
    os.close(log._descriptor)


def test_metrics_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not write"):
        MetricsLog(tmp_path / "missing" / "m")
