"""Shared memory that the other side goes on changing while the enclave reads its answer there."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from sealtune.accelerator.server import Server
from sealtune.errors import IntegrityError
from sealtune.offload.arena import Arena
from sealtune.offload.remote import RemoteAccelerator
from sealtune.offload.session import OffloadSession
from tests.offload.layers import GROUPS, HIDDEN, INNER, make_setup

ROWS, REFUSALS, ATTEMPTS = 600, 25, 5000
RESTLESS = """
import mmap, sys
memory = mmap.mmap(int(sys.argv[1]), 0)
at = int(sys.argv[2])
print("ready", flush=True)
while True:
    memory[at] ^= 1 << 1
"""


@contextmanager
def restless(arena: Arena) -> Iterator[None]:
    """A process that makes one entry wrong and right again, as fast as it can: bit 25, so that a
    wrong entry is in range like a right one.
    """
    product = arena.codes(ROWS, INNER, HIDDEN + 16)[1]
    at = product[ROWS // 2, 3].data_ptr() - arena.bytes.data_ptr() + 3
    command = [sys.executable, "-c", RESTLESS, str(arena.descriptor), str(at)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=(arena.descriptor,)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


def test_an_answer_that_changes_while_it_is_read_is_right_or_refused(tmp_path: Path) -> None:
    """What was checked is what is used: each element is read once."""
    setup = make_setup(tmp_path)
    server = Server(setup.engine, f"unix:{tmp_path}/a.sock")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    remote = RemoteAccelerator.connect(f"unix:{tmp_path}/a.sock", GROUPS)
    x = torch.randn(ROWS, INNER, generator=torch.Generator().manual_seed(1))

    def attempt() -> torch.Tensor | None:
        session = OffloadSession(remote, setup.plan, integrity_bits=40, owner="test")
        try:
            return session.multiply("q", x)
        except IntegrityError:
            return None

    right = attempt()
    assert right is not None
    assert remote._arena is not None
    with restless(remote._arena):
        refused = 0
        for _ in range(ATTEMPTS):  # half of them, if this process and that have a core each
            found = attempt()
            refused += found is None
            assert found is None or torch.equal(found, right)
            if refused == REFUSALS:
                break
    assert refused
    remote.close()
    server.close()
