"""A split job's server enclave and sites as real processes; a loop stands in for Flower."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealtune.data.site import load_sites
from sealtune.errors import ProcessDiedError, StorageError
from sealtune.federation.enclave_link import ServerEnclave, connect
from sealtune.job.local import Local
from sealtune.launch.inference import ask_enclave
from sealtune.owner.client import SplitClient
from sealtune.party.admit import admit
from sealtune.party.site_program import SiteProgram
from sealtune.plan.roles import OWNER_ASKING
from tests.enclave.split_flow import make_split_job, sign_split
from tests.enclave.test_processes import Processes

Parties = dict[str, Local]


@pytest.fixture
def parties(llama: Path, tmp_path: Path) -> Parties:
    return sign_split(make_split_job(tmp_path, llama), tmp_path / "run")


@pytest.fixture
def machine(parties: Parties) -> Iterator[Processes]:
    with tempfile.TemporaryDirectory(prefix="st-") as sockets:
        found = Processes(parties, Path(sockets))
        try:
            yield found
        finally:
            found.close()


def serving(parties: Parties) -> Local:
    """The server enclave, to answer north."""
    return parties["server"].model_copy(update={"serve": "north", "listen": "s.sock"})


@pytest.mark.slow
def test_a_whole_run_with_a_site_that_is_killed(parties: Parties, machine: Processes) -> None:
    machine.wait_ready()
    with ServerEnclave(connect(str(machine.socket("server")))) as server:
        for _ in range(3):  # handshake and the first chunks
            machine.exchange(server)
        sent = len(machine.server.of("upload"))
        machine.end(machine.clients["south"])
        machine.socket("south").unlink()
        machine.clients["south"] = machine.start("south")
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
        assert (
            machine.parties[site].folder / "sites" / site / "adapter" / "spf_config.json"
        ).is_file()

    # the same state answers questions, in a process of its own
    asking = admit(machine.parties["north"], OWNER_ASKING)
    client = SplitClient(asking)
    test = load_sites(asking.job, asking.labels, only=("north",))["north"].test
    server = serving(parties)
    shares = client.classify(
        [example.text for example in test], lambda deliver: ask_enclave(server, deliver)
    )
    truth = [example.label for example in test]
    found = [row.index(max(row)) for row in shares]
    right = sum(a == b for a, b in zip(found, truth, strict=True))
    assert (right, len(found)) == (final["north"]["correct"], final["north"]["total"])


@pytest.mark.slow
def test_an_unfinished_run_says_so(parties: Parties) -> None:
    asking = admit(parties["north"], OWNER_ASKING)
    site = SiteProgram(asking, None, lambda event, **fields: None)  # type: ignore[arg-type]
    with pytest.raises((StorageError, ProcessDiedError), match="not finished its training"):
        ask_enclave(serving(parties), site.deliver)
