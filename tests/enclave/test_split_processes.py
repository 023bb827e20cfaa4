"""A split job's server enclave and sites as real processes; a loop stands in for Flower."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealtune.data.site import load_sites
from sealtune.enclave.client_program import SiteProgram
from sealtune.enclave.trust import owner_trust
from sealtune.errors import ProcessDiedError, StorageError
from sealtune.federation.enclave_link import ServerEnclave
from sealtune.job.key_files import load_private, new_key
from sealtune.job.resolved import read_resolved
from sealtune.launch.answering import ask_enclave
from sealtune.owner.client import SplitClient
from tests.enclave.flow import SITES
from tests.enclave.split_flow import KEYS, make_split_job, resolve_split
from tests.enclave.test_processes import Processes


class SplitMachine(Processes):
    """All processes of a split job."""

    def __init__(self, run_dir: Path, sockets: Path, job_file: Path, keys: dict[str, Path]) -> None:
        super().__init__(run_dir, sockets, job_file)
        self._keys = keys
        self.run_dir = run_dir
        self.job_file = job_file
        self.server = self.start("server", "split-server")
        self.clients = {}
        for site in SITES:
            self.start_site(site)

    def start_site(self, site: str) -> None:
        """A fresh process of a data owner."""
        self.clients[site] = self.start("client", "owner-site", site, key=str(self._keys[site]))


Files = tuple[Path, dict[str, Path]]


@pytest.fixture
def files(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A job in a run's folder, and the key files of its sites."""
    keys = {site: new_key(site, tmp_path / "keys")[0] for site in SITES}
    for site, path in keys.items():
        monkeypatch.setitem(KEYS, site, load_private(path))
    (tmp_path / "run").mkdir()
    job_file = tmp_path / "run" / "job.resolved.json"
    resolve_split(make_split_job(tmp_path, llama), job_file)
    return job_file, keys


@pytest.fixture
def machine(files: Files) -> Iterator[SplitMachine]:
    job_file, keys = files
    with tempfile.TemporaryDirectory(prefix="st-") as sockets:
        found = SplitMachine(job_file.parent, Path(sockets), job_file, keys)
        try:
            yield found
        finally:
            found.close()


@pytest.mark.slow
def test_a_whole_run_with_a_site_that_is_killed(machine: SplitMachine) -> None:
    machine.wait_ready()
    with ServerEnclave(machine.socket("server", None)) as server:
        for _ in range(3):  # handshake and the first chunks
            machine.exchange(server)
        sent = len(machine.server.of("upload"))
        machine.end(machine.clients["south"])
        machine.socket("client", "south").unlink()
        machine.start_site("south")
        assert machine.clients["south"].ready.wait(120)
        while machine.exchange(server):
            pass
    assert machine.server.end() == 0
    uploads = [(e["site"], e["chunk"]) for e in machine.server.of("upload")]
    assert len(uploads) == len(set(uploads)) > sent > 0
    assert [e["round"] for e in machine.server.of("round")] == [0, 1, 2]
    final = machine.server.of("final")[0]["sites"]
    assert {entry["outcome"] for entry in final.values()} == {"ok"}
    for site, client in machine.clients.items():
        client.popen.send_signal(signal.SIGTERM)
        assert client.end() == 0
        assert client.events[-1] == {"event": "done"}
        assert (machine.run_dir / "sites" / site / "adapter" / "spf_config.json").is_file()

    # the same state answers questions, in a process of its own
    resolved = read_resolved(machine.job_file)
    client = SplitClient(resolved, "north", KEYS["north"])
    texts = [example.text for example in load_sites(resolved.job, resolved.labels)["north"].test]
    shares = client.classify(
        texts, lambda deliver: ask_enclave(machine.job_file, machine.run_dir, "north", deliver)
    )
    truth = [e.label for e in load_sites(resolved.job, resolved.labels)["north"].test]
    found = [row.index(max(row)) for row in shares]
    right = sum(a == b for a, b in zip(found, truth, strict=True))
    assert (right, len(found)) == (final["north"]["correct"], final["north"]["total"])


@pytest.mark.slow
def test_an_unfinished_run_says_so(files: Files) -> None:
    job_file = files[0]
    resolved = read_resolved(job_file)
    trust = owner_trust(resolved, "north", KEYS["north"])
    job_id = bytes.fromhex(resolved.job_id)
    site = SiteProgram(job_id, "north", trust, None, lambda event, **fields: None)  # type: ignore[arg-type]
    with pytest.raises((StorageError, ProcessDiedError), match="not finished its training"):
        ask_enclave(job_file, job_file.parent, "north", site.deliver)
