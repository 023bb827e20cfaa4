"""A real job, each party's command a process with a folder and local file of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sealtune.cli.signing import propose
from sealtune.job.dsse import Envelope
from sealtune.job.key_files import load_private, new_key
from sealtune.job.keys import public_hex
from sealtune.job.load import load_job
from sealtune.job.manifest import Participant
from sealtune.job.network import NetworkIdentity
from sealtune.job.network_keys import new_certificate, new_node_key
from sealtune.job.proposal import sign, wrap
from sealtune.launch.ports import free_port
from sealtune.plan.resolve import resolve
from sealtune.report import build_summary
from tests.model.tiny import make_llama
from tests.sample_job import SITES, write_job

_ONE_CORE = ("taskset", "-c", str(min(os.sched_getaffinity(0))))
COMPARED = ("round", "train_loss", "loss", "correct", "total")


class Office:
    """Five folders, each with what one party has."""

    def __init__(self, folder: Path, short: Path) -> None:
        self.folder = folder
        make_llama(folder / "model")
        self.job = folder / "job.toml"
        write_job(folder, "model", job={"name": "tiny", "rounds": 2}, data={"max_tokens": 24})
        ports = free_port(), free_port()
        tls, certificate = new_certificate("relay", ("127.0.0.1",), timedelta(days=9))
        link, server_certificate = new_certificate("link", (), timedelta(days=9))
        nodes = {site: new_node_key() for site in SITES}
        network = NetworkIdentity(
            sites_at=f"127.0.0.1:{ports[0]}",
            server_at=f"127.0.0.1:{ports[1]}",
            certificate=certificate,
            server_certificate=server_certificate,
            nodes={site: public for site, (_, public) in nodes.items()},
        )
        keys = {site: load_private(new_key(site, folder)[0]) for site in SITES}
        people = [
            Participant(org=site, key=public_hex(key.public_key()), sites=(site,))
            for site, key in keys.items()
        ]
        proposal = propose(
            resolve(load_job(self.job)), people, network=network, valid=timedelta(days=3)
        )
        self.envelope = wrap(proposal)
        for key in keys.values():
            self.envelope = sign(self.envelope, key)
        gpu = f"unix:{short}/gpu.sock"
        listens = {"listen": f"tcp:127.0.0.1:{ports[0]}"}
        listens["listen_server"] = f"tcp:127.0.0.1:{ports[1]}"
        self.write("coordinator", listens, tls)
        self.write("server", {"listen": f"{short}/s.sock"}, link)
        self.write("accelerator", {"listen": gpu})
        for site in SITES:
            own = {"site": site, "listen": f"{short}/{site}.sock", "accelerator": gpu}
            self.write(site, own, nodes[site][0])

    def write(self, name: str, keys: dict[str, str], secret: bytes = b"") -> None:
        place = self.folder / "hosts" / name
        place.mkdir(parents=True)
        role = "site" if name in SITES else name
        keys = {"role": role, "folder": "out", "manifest": "job.manifest.json"} | keys
        if secret:
            (place / "net.key").write_bytes(secret)
            (place / "net.key").chmod(0o600)
            keys["node_key" if role == "site" else "tls_key"] = "net.key"
        (place / "job.manifest.json").write_bytes(self.envelope.encode())
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        if role in ("site", "accelerator"):
            text += f'[model]\npath = "{self.folder / "model"}"\n'
        if role == "site":
            job = load_job(self.job)
            for part in ("train", "test"):
                file = getattr(job.data, part)
                file = file[name] if isinstance(file, dict) else file
                shutil.copy(file, place / Path(file).name)
                text += f'{"[data]" if part == "train" else ""}\n{part} = "{Path(file).name}"\n'
        (place / "local.toml").write_text(text)

    def start(self, name: str) -> subprocess.Popen[str]:
        place = self.folder / "hosts" / name
        role = "site" if name in SITES else name
        with (place / "stderr").open("w") as said:
            return self.command(place, role, "--local", str(place / "local.toml"), stderr=said)

    def command(self, home: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """On one core: sums do not hang on how many there are."""
        return subprocess.Popen(
            [*_ONE_CORE, sys.executable, "-m", "sealtune.cli.main", *arguments],
            env=os.environ | {"XDG_STATE_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="st") as short:
        yield Office(tmp_path, Path(short))


def rounds(path: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {key: event.get(key) for key in COMPARED} for event in events if event["event"] == "round"
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_commands_do_what_run_does(office: Office) -> None:
    names = ("coordinator", "server", "accelerator", *SITES)
    started = {name: office.start(name) for name in names}
    places = {name: office.folder / "hosts" / name for name in names}
    for name in ("server", "coordinator", *SITES):
        out, _ = started[name].communicate(timeout=240)
        said = (places[name] / "stderr").read_text()
        assert started[name].returncode == 0, said
        first = json.loads(out.splitlines()[0])
        role = "site" if name in SITES else name
        assert (first["event"], first["role"]) == ("ready", role)
        if name in SITES:
            assert f"the adapter is in {places[name]}/out/sites/{name}/adapter" in said
    started["accelerator"].send_signal(signal.SIGTERM)
    started["accelerator"].communicate(timeout=60)
    assert started["accelerator"].returncode == 0, "asked to stop, it did"
    adapters = {
        (
            places[site] / "out" / "sites" / site / "adapter" / "adapter_model.safetensors"
        ).read_bytes()
        for site in SITES
    }
    assert len(adapters) == 1
    alone = office.folder / "alone"
    alone.mkdir()
    (office.folder / "job.manifest.json").write_bytes(office.envelope.encode())
    run = office.command(
        alone, "run", str(office.job), "--runs", str(alone), "--manifest",
        str(office.folder / "job.manifest.json"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = run.communicate(timeout=240)
    assert run.returncode == 0, out
    server = places["server"] / "out"
    assert rounds(server / "metrics.jsonl") == rounds(alone / "tiny" / "metrics.jsonl")
    here, there = build_summary(server), build_summary(alone / "tiny")
    for key in ("job_id", "accuracy_after", "loss_after", "rounds", "outcome"):
        assert here[key] == there[key], key
    assert (here["party"], there["party"]) == ("server", None)
    assert build_summary(places["coordinator"] / "out")["party"] == "coordinator"
    assert Envelope.read(server / "job.manifest.json").payload == office.envelope.payload
