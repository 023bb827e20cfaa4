"""The fuzzer runs, finds nothing, and would find something; what it once found stays fixed."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from sealtune import frames
from sealtune.accelerator.server import Server
from sealtune.errors import AcceleratorLostError, FrameError
from sealtune.frames import Frame
from sealtune.job.plan import LinearGroup
from sealtune.job.spec import Job
from sealtune.offload.remote import RemoteAccelerator
from tests.offload.layers import make_setup

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--quick", "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_fiftieth_of_a_quick_run_finds_nothing() -> None:
    done = fuzz("--share", "0.02")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["escapes"] == 0
    assert found["inputs"] > 2000
    assert {"inputs", "escapes", "slowest_ms", "peak_mib"} <= set(found)
    expected = ["frame", "adapter", "sealed message", "tdx evidence", "nvidia-gpu evidence"]
    expected += ["client-hello", "manifest", "local.json", "accelerator request"]
    assert set(expected) <= set(found["parsers"])


def test_the_fuzzer_would_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import fuzz

    def parse(data: bytes) -> None:
        raise IndexError("out of range")

    result = fuzz.Result()
    fuzz.outcome(parse, b"x", result)
    assert result.escapes[0].startswith("IndexError: out of range at ")


# ---- findings ---------------------------------------------------------------------------------


def test_an_announced_length_allocates_nothing() -> None:
    """A header of 20 bytes made the reader allocate up to 4 GiB."""
    near, far = socket.socketpair()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), before[1]))
    try:
        with near, far:
            far.sendall(frames.HEADER.pack(frames.MAGIC, 12, 1 << 32, 0) + b'{"kind":"x"}')
            far.shutdown(socket.SHUT_WR)
            with pytest.raises(FrameError, match="closed inside a frame"):
                frames.receive(near)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_body_of_many_pieces_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_PIECE", 1000)
    body = bytes(range(256)) * 50
    near, far = socket.socketpair()
    with near, far:
        frames.send(far, Frame("x", {}, body))
        frames.send(far, Frame("y", {}, b""))
        assert frames.receive(near).body == body
        assert frames.receive(near).body == b""


@pytest.mark.parametrize(
    ("kind", "meta"),
    [
        ("product", '"group":"q","backward":false,"rows":1e999'),
        ("prefix", '"batch":-Infinity,"length":1'),
        ("prefix", '"batch":1,"length":1'),
    ],
)
def test_a_strange_request_ends_no_thread(kind: str, meta: str, tmp_path: Path) -> None:
    """Infinite numbers, and token ids beyond the vocabulary."""
    engine = make_setup(tmp_path).engine
    table = torch.ones((5, 4))
    engine._prefix = lambda ids: torch.nn.functional.embedding(ids, table)  # type: ignore[assignment]
    server = Server(engine, "tcp:127.0.0.1:0")
    near, far = socket.socketpair()
    raw = f'{{"kind":"{kind}",{meta}}}'.encode()
    with far:
        far.sendall(frames.HEADER.pack(frames.MAGIC, len(raw), 8, 0) + raw + b"\xff" * 7 + b"\x7f")
        far.shutdown(socket.SHUT_WR)
        server._serve(near)
        assert frames.receive(far).kind == "error"
    server.close()


def test_an_empty_prefix_is_refused() -> None:
    group = LinearGroup(name="q", members=("q",), in_features=8, out_features=(4,), backward=False)
    near, far = socket.socketpair()
    with near, far:
        frames.send(far, Frame("prefix", {"dim": 0}))
        remote = RemoteAccelerator(near, (group,), shared_memory=False)
        with pytest.raises(AcceleratorLostError, match="wrong size"):
            remote.prefix(torch.zeros((1, 2), dtype=torch.int64))


def test_sizes_beyond_canonical_json_are_refused() -> None:
    with pytest.raises(ValueError, match="less than"):
        LinearGroup(name="q", members=(), in_features=2**53 + 1, out_features=(), backward=False)


def test_settings_that_no_manifest_can_hold() -> None:
    content = {
        "job": {"name": "demo"},
        "model": {"path": "/m"},
        "data": {"train": "/d/t.csv", "test": "/d/e.csv", "label": "x" * 2000},
        "sites": {"names": ["north"], "partition": "dirichlet"},
    }
    with pytest.raises(ValidationError, match=r"data\.label"):
        Job.model_validate(content)
