from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as torch_save

from sealtune import frames
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms import platform
from sealtune.channel.shared import Messages
from sealtune.errors import AdapterMismatchError, FrameError, StorageError
from sealtune.federation.enclave_link import ServerEnclave
from sealtune.job.manifest import DataIdentity
from sealtune.methods.federated.adapter import read_adapter, write_adapter
from sealtune.methods.federated.site_report import read_report
from sealtune.party.checkpoint import Checkpoint, CheckpointFile, State
from sealtune.party.relay_link import End, serve, serve_until_done
from sealtune.sockets import connect

SHAPES = {"a": (3, 4), "b": (5,)}


def tensors(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    return {n: (scale * source.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"a": t["a"]},
        lambda t: {**t, "c": t["b"]},
        lambda t: {**t, "a": t["a"].T.copy()},
        lambda t: {**t, "b": t["b"].astype(np.float64)},
        lambda t: {**t, "b": t["b"].astype(np.int32)},
    ],
)
def test_an_update_that_does_not_fit_the_plan_is_refused(change: object) -> None:
    with pytest.raises(AdapterMismatchError):
        read_adapter(write_adapter(change(tensors(0))), SHAPES)  # type: ignore[operator]


@pytest.mark.parametrize("data", [b"", b"x" * 50, b"\xff" * 4000, b"x" * 10_000_000])
def test_bytes_that_are_no_adapter_are_refused(data: bytes) -> None:
    with pytest.raises(AdapterMismatchError):
        read_adapter(data, SHAPES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.bool])
def test_other_number_formats_are_refused(dtype: torch.dtype) -> None:
    data = torch_save({n: torch.zeros(s).to(dtype) for n, s in SHAPES.items()})
    with pytest.raises(AdapterMismatchError):
        read_adapter(data, SHAPES)


SIGNED = DataIdentity(train="01" * 32, train_rows=30, test="02" * 32, test_rows=7)
GOOD = {
    "round": 1,
    "train_loss": 0.5,
    "frozen_unchanged": True,
    "seconds": {"enclave": 1, "accelerator": 2.0, "pads": 0, "passes": 0.5},
}


def test_fields_are_checked_and_others_dropped() -> None:
    stated = {**GOOD, "text": "secret", "examples": (1 << 29) - 1}
    fields = read_report("train", 1, stated, SIGNED, 1)
    assert set(fields) == {"examples", "train_loss", "frozen_unchanged", "seconds"}
    assert fields["examples"] == SIGNED.train_rows


@pytest.mark.parametrize(
    "change",
    [
        {"round": 2},
        {"round": True},
        {"train_loss": float("nan")},
        {"train_loss": "0.5"},
        {"train_loss": 10**400},
        {"train_loss": None},
        {"seconds": None},
        {"seconds": {"enclave": 1}},
        {"frozen_unchanged": False},
        {"frozen_unchanged": None},
        {"frozen_unchanged": 1},
    ],
)
def test_absurd_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FrameError):
        read_report("train", 1, {**GOOD, **change}, SIGNED, 1)


def evaluated(**change: object) -> dict[str, object]:
    right = {"round": 0, "correct": 3, "total": SIGNED.test_rows, "loss": 1.0}
    return {**right, "seconds": GOOD["seconds"], **change}


def test_questions_are_the_signed_rows() -> None:
    assert read_report("evaluate", 0, evaluated(), SIGNED, 1)["total"] == SIGNED.test_rows
    for total in (20, 24 * 7):
        stated = evaluated(total=total)
        assert read_report("evaluate", 0, stated, SIGNED, 24)["total"] == total


@pytest.mark.parametrize(
    ("change", "per_row"),
    [
        ({"correct": 8}, 1),
        ({"correct": 8, "total": 8}, 1),
        ({"total": 6}, 1),
        ({"total": 0, "correct": 0}, 1),
        ({"total": 24 * 7 + 1}, 24),
        ({"total": True}, 1),
        ({"total": 7.0}, 1),
        ({"correct": -1}, 1),
    ],
)
def test_other_questions_than_were_signed_are_refused(
    change: dict[str, object], per_row: int
) -> None:
    with pytest.raises(FrameError):
        read_report("evaluate", 0, evaluated(**change), SIGNED, per_row)


class Ledger(State):
    """What some method keeps."""

    spent: dict[str, float]


LEDGER = Ledger(spent={f"north-{i}": 0.5 for i in range(100_000)})  # beyond a frame's meta


def checkpoints(folder: Path, key: bytes = bytes(32)) -> CheckpointFile[Ledger]:
    return CheckpointFile(folder, key, bytes(48), Ledger)


def test_checkpoint_goes_in_and_out(tmp_path: Path) -> None:
    file = checkpoints(tmp_path, platform(Kind.SIMULATED).sealing_key())
    assert file.load() is None
    for number in (0, 1, 7):
        file.save(Checkpoint(number, LEDGER, b"tensor" * number))
        assert file.load() == Checkpoint(number, LEDGER, b"tensor" * number)
    assert b"tensor" not in file.path.read_bytes()
    assert b"north" not in file.path.read_bytes()


def test_checkpoint_opens_with_its_own_key_only(tmp_path: Path) -> None:
    checkpoints(tmp_path).save(Checkpoint(1, LEDGER))
    with pytest.raises(StorageError, match="does not open"):
        checkpoints(tmp_path, bytes([1]) * 32).load()


@pytest.mark.parametrize("data", [b"", b"STSS", b"x" * 500])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, data: bytes) -> None:
    file = checkpoints(tmp_path)
    file.path.write_bytes(data)
    with pytest.raises(StorageError, match="does not open"):
        file.load()


@pytest.mark.parametrize(
    ("kind", "meta", "words"),
    [
        ("checkpoint", {"format": 2, "round": 3, "adapter": 0}, "format 2, not 3"),
        ("checkpoint", {"format": 3, "round": 3}, "not this method's"),
        ("checkpoint", {"format": 3, "round": 3, "state": 2}, "not this method's"),
        ("checkpoint", {"format": 3, "round": 3, "state": 2, "links": 0}, "not this method's"),
        ("checkpoint", {"format": 3, "round": 3, "state": {}, "links": 0}, "not this method's"),
        ("samples", {"format": 3}, "format"),
    ],
)
def test_a_checkpoint_of_another_format_is_refused(
    tmp_path: Path, kind: str, meta: dict[str, object], words: str
) -> None:
    file = checkpoints(tmp_path)
    plain = frames.encode(frames.Frame(kind, meta, b"[]"))
    file.path.write_bytes(file._session("seal", 3).seal(plain, 3))
    with pytest.raises(StorageError, match=words):
        file.load()


def test_the_sealing_key_lies_outside_and_is_not_the_development_key_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    key = platform(Kind.SIMULATED).sealing_key()
    [file] = (tmp_path / "sealtune").iterdir()
    assert file.name == "simulated-tee.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert key != file.read_bytes()
    assert key == platform(Kind.SIMULATED).sealing_key()


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )


def test_a_relay_that_hangs_up_does_not_end_the_server() -> None:
    class Program:
        max_message = 1 << 20
        deadline = left = 1.0
        done = False

        def next(self) -> Messages | None:
            return None if self.done else Messages({"north": bytes(1 << 20)})

    for done in (False, True):
        program = Program()
        program.done = done
        here, there = socket.socketpair()
        frames.send(there, frames.Frame("next"))
        there.close()
        with here:
            end = End()
            serve(here, program, end)  # type: ignore[arg-type]
        assert (end.limit is not None) is done
        assert not end.heard


def test_the_end_is_told_until_a_relay_has_heard_it(tmp_path: Path) -> None:
    class Program:
        max_message = 1 << 20
        deadline = left = 1.0

        def next(self) -> Messages | None:
            return None

    path, ready = str(tmp_path / "s"), threading.Event()
    enclave = threading.Thread(
        target=serve_until_done,
        args=(path, Program(), lambda _: ready.set()),
        daemon=True,
    )
    enclave.start()
    assert ready.wait(20)
    with connect(path) as lost:
        frames.send(lost, frames.Frame("next"))
        assert frames.receive(lost).kind == "done"
    with connect(path) as relay:
        assert ServerEnclave(relay).next() is None
        enclave.join(20)
        assert not enclave.is_alive()


def test_the_aggregator_loads_no_torch() -> None:
    code = (
        "import sys, sealtune.enclave.aggregator\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'flwr') if m in sys.modules])"
    )
    assert run_python(code).stdout == "[]\n"


PROGRAM = """
import os, sys
from sealtune.party.events import run_program
from sealtune.errors import IntegrityError
from sealtune.job.training_events import Step
def work(emit):
    print("a library's chatter")
    emit(Step(round=1, step=1, of=1, loss=float("nan")))
    {body}
sys.exit(run_program(work))
"""


@pytest.mark.parametrize(
    ("body", "code", "kinds"),
    [
        ("pass", 0, ["step", "memory", "done"]),
        ("raise IntegrityError('lies', hint='stop')", 5, ["step", "error", "memory"]),
        ("secret = 'my text'; {}[secret]", 1, ["step", "error", "memory"]),
        ("os.kill(os.getpid(), 15)", 0, ["step", "memory", "done"]),
    ],
)
def test_how_a_program_ends_is_told(body: str, code: int, kinds: list[str]) -> None:
    done = run_python(PROGRAM.replace("{body}", body))
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == code
    assert [event["event"] for event in events] == kinds
    assert events[0]["loss"] is None
    assert "chatter" in done.stderr
    assert "my text" not in done.stdout + done.stderr.replace(body, "")
    for event in events:
        if event["event"] == "error":
            assert event["code"] == code
