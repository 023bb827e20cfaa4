"""A real job whose aggregator runs in a virtual machine, and what a host can try on it there.

Where nothing else is there, machines are emulated in software: a boot takes half a minute.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sealtune.errors import ConfigError, DigestMismatchError, FederationError
from sealtune.federation.enclave_link import ServerEnclave
from sealtune.images import machine as machines
from sealtune.images.handed import fitting, hand_in
from sealtune.images.image import Image
from sealtune.job.dsse import Envelope
from sealtune.job.load import load_job
from sealtune.job.local import Local, ModelPlace, read_local
from sealtune.job.local_file import anchored
from sealtune.job.manifest import open_manifest
from sealtune.launch.parties import command
from sealtune.launch.preflight import preflight
from sealtune.sockets import connect
from tests.enclave.flow import make_federation, make_job, sign_job
from tests.enclave.test_processes import Machine, send_nonsense
from tests.sample_job import write_job

PY = sys.executable
SECTIONS = {
    "job": {"seed": 3, "rounds": 2},
    "data": {"max_tokens": 24},
    "tuning": {"rank": 4},
    "train": {"steps_per_round": 3, "batch_size": 4},
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_qemu")
def test_a_job_with_its_aggregator_in_a_machine(
    aggregator: Image, llama: Path, tmp_path: Path
) -> None:
    """The same adapter, byte for byte, and the same losses, as with everything in one process."""
    file = write_job(tmp_path, llama, **SECTIONS)
    oracle = make_federation(load_job(file), tmp_path / "oracle")
    oracle.run(oracle.aggregator())
    run = [sys.executable, "-m", "sealtune.cli.main", "run", str(file), "--runs", str(tmp_path)]
    done = subprocess.run(
        [*run, "--image", f"server={aggregator.folder}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir, own = tmp_path / "tiny", tmp_path / "oracle" / "sites" / "north"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run_dir / "adapter" / name).read_bytes() == (own / "adapter" / name).read_bytes()
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    told = losses(map(json.loads, lines))
    assert told == losses(oracle.of("round"))
    assert len(told) == 2
    console = (run_dir / "logs" / "server.log").read_text()
    assert "sealtune image: starting aggregator" in console
    assert "reboot: Power down" in console


def losses(events: Iterable[Mapping[str, Any]]) -> list[float]:
    """Of each round of training."""
    return [e["train_loss"] for e in events if e["event"] == "round" and "train_loss" in e]


@pytest.fixture
def parties(aggregator: Image, llama: Path, tmp_path: Path) -> dict[str, Local]:
    """Of a job whose server has an image."""
    found = sign_job(make_job(tmp_path, llama), tmp_path / "run")
    server = found["server"].model_copy(update={"image": aggregator.folder})
    return found | {"server": server}


@pytest.fixture
def sockets() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_qemu")
def test_a_host_that_talks_nonsense_cuts_the_channel_and_starts_from_an_older_state(
    parties: dict[str, Local], sockets: Path, llama: Path, tmp_path: Path
) -> None:
    oracle = make_federation(make_job(tmp_path, llama), tmp_path / "oracle")
    oracle.run(oracle.aggregator())
    # what lies in folders that the host shows is no code for anybody
    for name in ("numpy.py", "sitecustomize.py", "sealtune/frames.py", "cffi.cpython-311.pyc"):
        planted = tmp_path / "run" / name
        planted.parent.mkdir(exist_ok=True)
        planted.write_text("raise SystemExit('planted')")
    state = tmp_path / "run" / "state" / "checkpoint.sealed"
    machine = Machine(parties, sockets)
    try:
        wait_ready(machine)
        send_nonsense(machine)
        for _ in range(4):  # handshakes, evaluation and a round, each over a connection of its own
            with ServerEnclave(connect(str(machine.socket("server")))) as server:
                assert machine.exchange(server)
        older = state.read_bytes()
        with ServerEnclave(connect(str(machine.socket("server")))) as server:
            machine.exchange(server)  # sites see that round 1 is over; their answers are lost
        machine.server.popen.send_signal(signal.SIGTERM)
        assert machine.server.end() == 0
        assert machine.server.events[-1] == {"event": "done"}
        rounds, newer = machine.server.of("round"), state.read_bytes()

        state.write_bytes(older)
        restart(machine)
        with pytest.raises(FederationError, match="an older checkpoint was put back"):
            finish(machine)
        assert machine.server.end() == 6
        assert machine.server.of("error")[0]["error"] == "RollbackError"

        state.write_bytes(newer)
        restart(machine)
        finish(machine)
        assert machine.server.end() == 0
        rounds += machine.server.of("round")
        assert [r["round"] for r in rounds] == [0, 1, 2]
        assert losses(rounds) == losses(oracle.of("round"))
    finally:
        machine.close()


def finish(machine: Machine) -> None:
    """Carry messages until the job is done."""
    with ServerEnclave(connect(str(machine.socket("server")))) as server:
        while machine.exchange(server):
            pass


def restart(machine: Machine) -> None:
    """Boot the server's machine again, to go on from what lies in its folder."""
    machine.end(machine.server)
    machine.parties["server"] = machine.parties["server"].model_copy(update={"resume": True})
    machine.server = machine.start("server")
    wait_ready(machine)


def wait_ready(machine: Machine) -> None:
    """Emulation on a busy machine takes its time."""
    machine.server.ready.wait(800)
    machine.wait_ready()


def booted(server: Local, sockets: Path) -> tuple[int, list[dict[str, object]]]:
    """How a machine ended, and what it said."""
    done = subprocess.run(
        command(anchored(server, sockets)), stdout=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_qemu")
@pytest.mark.parametrize("attack", ["unsigned manifest", "link in the folder"])
def test_what_a_host_hands_in_is_refused_inside(
    parties: dict[str, Local], sockets: Path, tmp_path: Path, attack: str
) -> None:
    server = parties["server"]
    if attack == "unsigned manifest":
        envelope = Envelope.read(server.manifest)
        unsigned = Envelope(envelope.payload_type, envelope.payload, envelope.signatures[:1])
        server.manifest.write_bytes(unsigned.encode())
        expected = (10, "SignatureMissingError")
    else:
        (tmp_path / "run" / "state").symlink_to("/opt/sealtune")  # followed, no checkpoint is there
        server = server.model_copy(update={"resume": True})
        expected = (9, "StorageError")
    code, events = booted(server, sockets)
    assert (code, [e["error"] for e in events if e["event"] == "error"]) == (
        expected[0],
        [expected[1]],
    )


def test_an_image_of_another_program_or_version_is_not_booted(
    aggregator: Image, parties: dict[str, Local], tmp_path: Path, llama: Path
) -> None:
    fitting(aggregator, parties["server"])
    with pytest.raises(ConfigError, match="holds the aggregator; the site of this job"):
        fitting(aggregator, parties["north"])
    contents = aggregator.contents.model_copy(update={"code": "0" * 96})
    with pytest.raises(DigestMismatchError, match="another aggregator than the manifest names"):
        fitting(Image(aggregator.folder, contents), parties["server"])
    linked = tmp_path / "linked"
    shutil.copytree(llama, linked)
    (linked / "link").symlink_to(linked / "config.json")
    for place, fault in ((str(linked), "holds links"), ("org/model", "needs a folder")):
        held = parties["server"].model_copy(update={"model": ModelPlace(path=place)})
        with pytest.raises(ConfigError, match=fault):
            fitting(aggregator, held)
    held = parties["server"].model_copy(update={"untrusted_shm": tmp_path})
    with pytest.raises(ConfigError, match="an image shares no memory"):
        fitting(aggregator, held)


HEARS = "print('{}', flush=True); assert input() == 'stop'; print('\\nexit 7')"
DEAF = "import time; print('{}', flush=True); time.sleep(60)"


@pytest.mark.parametrize(("machine", "signals", "code"), [(HEARS, 1, 7), (DEAF, 2, 143)])
def test_a_signal_for_the_whole_group_asks_the_program_and_a_second_ends_the_machine(
    machine: str, signals: int, code: int
) -> None:
    """What stands for QEMU would end at the signal itself, if it got it."""
    run = f"import sys; from sealtune.images.run import _run; sys.exit(_run({[PY, '-c', machine]}))"
    with subprocess.Popen(
        [PY, "-c", run], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"{}\n"
        for _ in range(signals):
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(0.2)  # signals of one number that wait together are one
        assert process.wait(30) == code
        assert process.stdout.read() == b""


def test_who_starts_it_is_told_why_an_image_is_not_booted(
    aggregator: Image, parties: dict[str, Local], sockets: Path, tmp_path: Path
) -> None:
    """As an event, like those of the program, so that it is not started again and again."""
    folder = tmp_path / "image"
    shutil.copytree(aggregator.folder, folder)
    (folder / "cmdline").write_text("init=/bin/sh")
    code, events = booted(parties["server"].model_copy(update={"image": folder}), sockets)
    assert code == 10
    assert [(e["event"], e["error"]) for e in events] == [("error", "DigestMismatchError")]


def test_a_check_before_the_start_asks_the_image_and_not_this_machine(
    aggregator: Image, parties: dict[str, Local], tmp_path: Path
) -> None:
    """The host of a TEE's guest makes no evidence itself."""
    local = anchored(parties["server"], tmp_path)
    rows = {row.what: row for row in preflight(local, lambda _: "fits")}
    assert rows["image"].said == "fits"
    assert not {"evidence", "admission"} & rows.keys()
    assert {"evidence", "admission"} <= {row.what for row in preflight(local)}


def test_the_development_key_goes_in_where_the_manifest_asks_for_simulated_evidence(
    parties: dict[str, Local], tmp_path: Path
) -> None:
    server = parties["server"]
    manifest = open_manifest(Envelope.read(server.manifest))
    shares = hand_in(server, manifest, tmp_path / "in")
    key = tmp_path / "in" / "insecure-simulated" / "sealtune" / "simulated-tee.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert shares == {"in": tmp_path / "in", "folder": server.folder}
    inside = read_local(tmp_path / "in" / "local.json")
    assert (inside.listen, inside.image) == ("tcp:10.0.2.15:7000", None)
    assert str(inside.manifest) == "/run/in/manifest.json"
    assert {file.name for file in (tmp_path / "in").iterdir()} == {
        "manifest.json", "local.json", "insecure-simulated",
    }  # fmt: skip
    protection = manifest.settings.protection.model_copy(update={"attestation": "tdx"})
    settings = manifest.settings.model_copy(update={"protection": protection})
    hand_in(server, manifest.model_copy(update={"settings": settings}), tmp_path / "real")
    assert not (tmp_path / "real" / "insecure-simulated").exists()


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines.shutil, "which", lambda _: None)
    with pytest.raises(FederationError) as error:
        machines.find_qemu()
    assert "apt-get install qemu-system-x86" in error.value.hint
