"""Server and sites of a job under secure aggregation as real processes; a loop is the network."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import pytest

from sealtune.federation.enclave_link import ServerEnclave, connect
from sealtune.job.sections import SitesSpec
from tests.enclave.sum_flow import FIVE, make_sum_job, sign_sum
from tests.enclave.test_processes import Processes

FOUR = FIVE[1:]


@pytest.mark.slow
def test_a_whole_run_with_a_site_that_is_killed(llama: Path, tmp_path: Path) -> None:
    sites = SitesSpec(names=FOUR, partition="dirichlet", alpha=5.0)
    job = make_sum_job(tmp_path, llama, min_sites=3, sites=sites)
    parties = sign_sum(job, tmp_path / "run")
    with tempfile.TemporaryDirectory(prefix="st-") as sockets:
        machine = Processes(parties, Path(sockets))
        try:
            machine.wait_ready()
            with ServerEnclave(connect(str(machine.socket("server")))) as server:
                for _ in range(2 + 5 + 2):  # handshake, the first sum, keys and shares of the next
                    machine.exchange(server)
                machine.end(machine.clients["west"])
                machine.socket("west").unlink()
                while len(machine.server.of("round")) < 2:
                    machine.exchange(server)
                machine.clients["west"] = machine.start("west")
                assert machine.clients["west"].ready.wait(120)
                while machine.exchange(server):
                    pass
            assert machine.server.end() == 0
            for client in machine.clients.values():
                client.popen.send_signal(signal.SIGTERM)
                assert client.end() == 0
        finally:
            machine.close()
    rounds = machine.server.of("round")
    assert [event["round"] for event in rounds] == [0, 1, 2]
    assert rounds[1]["sites"]["west"]["outcome"] == "failed"
    final = machine.server.of("final")[0]
    assert {entry["outcome"] for entry in final["sites"].values()} == {"ok"}
    written = [
        (tmp_path / "run" / "sites" / site / "adapter" / "adapter_model.safetensors").read_bytes()
        for site in FOUR
    ]
    assert written == written[:1] * 4
