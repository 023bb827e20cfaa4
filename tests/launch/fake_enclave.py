"""Programs that speak relay's and nodes' protocol and do nothing else, in place of enclaves.

    python fake_enclave.py server|site|accelerator LOCAL.json

What they do is in ``fake.json`` beside the manifest: ``sites``, ``rounds``, ``payload`` (bytes each
way), ``deadline`` (seconds), ``work`` (seconds a site works on a message), ``start`` (seconds until
ready), ``crash`` (round in which the server is killed, once), ``refuse`` (role that says why and
ends), ``stubborn`` (role that does not end when asked). Each body is derived from round and site,
and both sides check every byte of it. A server that is started again goes on after the last round.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from sealtune import frames
from sealtune.frames import Frame


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def body(direction: str, number: int, site: str, size: int) -> bytes:
    """Incompressible, reproducible bytes that start with a readable round number."""
    seed = f"{direction} {number} {site}".encode()
    head = number.to_bytes(4, "little")
    return (head + hashlib.shake_128(seed).digest(max(0, size - 4)))[: max(4, size)]


def listen(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    Path(path).unlink(missing_ok=True)
    sock.bind(path)
    sock.listen()
    return sock


def server(config: dict[str, Any], fake: dict[str, Any]) -> None:
    sites = fake["sites"]
    listener = listen(config["listen"])
    time.sleep(fake.get("start", 0))
    state = Path(config["manifest"]).with_name("fake-state.json")
    first = json.loads(state.read_text())["round"] + 1 if state.exists() else 0
    say("ready")
    relay, _ = listener.accept()
    start = time.monotonic()
    for number in range(first, fake["rounds"] + 1):
        if number == fake.get("crash") and first == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        assert frames.receive(relay).kind == "next"
        bodies = {site: body("down", number, site, fake["payload"]) for site in sites}
        meta = {
            "to": {site: len(sent) for site, sent in bodies.items()},
            "deadline": fake["deadline"],
        }
        frames.send(relay, Frame("send", meta, b"".join(bodies.values())))
        outcomes = {}
        for _ in sites:
            frame = frames.receive(relay)
            site = frame.meta["site"]
            ok = frame.kind == "reply"
            if ok:
                assert frame.body == body("up", number, site, fake["payload"]), "bytes changed"
            outcomes[site] = {
                "outcome": "ok" if ok else "failed",
                "reason": frame.meta.get("reason", ""),
                "examples": 10,
                "train_loss": 3.0 / (number + 1),
                "correct": 20 + 10 * number,
                "total": 100,
                "bytes_up": len(frame.body),
                "bytes_down": len(bodies[site]),
                "seconds": {
                    "enclave": fake.get("work", 0),
                    "accelerator": 0.0,
                    "pads": 0.0,
                    "passes": 0.0,
                },
            }
            frames.send(relay, Frame("ok"))
        say("round", round=number, sites=outcomes, seconds=time.monotonic() - began)
        state.write_text(json.dumps({"round": number}))
    say("final", round=fake["rounds"], sites={})
    assert frames.receive(relay).kind == "next"
    frames.send(relay, Frame("done"))
    say("memory", peak_mib=1.0)
    say("done", seconds=time.monotonic() - start)


def client(config: dict[str, Any], fake: dict[str, Any]) -> None:
    site = config["site"]
    listener = listen(config["listen"])
    accelerator = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while accelerator.connect_ex(config["accelerator"].removeprefix("unix:")) != 0:
        time.sleep(0.05)
    time.sleep(fake.get("start", 0))
    say("ready")
    last: tuple[bytes, bytes] | None = None
    while True:
        node, _ = listener.accept()
        frame = frames.receive(node)
        if last is None or last[0] != frame.body:  # a repeat is answered as before
            number = int.from_bytes(frame.body[:4], "little")
            assert frame.body == body("down", number, site, fake["payload"]), "bytes changed"
            work(number, fake["rounds"], fake.get("work", 0.0), accelerator)
            last = (bytes(frame.body), body("up", number, site, fake["payload"]))
        try:
            frames.send(node, Frame("reply", {}, last[1]))
        except OSError as error:
            print(f"the node went away: {error}", file=sys.stderr)
        node.close()


def work(number: int, last: int, seconds: float, accelerator: socket.socket) -> None:
    steps = 10
    say("phase", round=number, phase="train" if number else "evaluate", of=steps)
    for step in range(steps):
        time.sleep(seconds / steps)
        try:
            accelerator.sendall(b".")
            if accelerator.recv(1) != b".":
                raise ConnectionError("closed")
        except OSError:
            message = "the accelerator closed the connection"
            say("error", code=5, error="AcceleratorLostError", message=message, hint="")
            sys.exit(5)
        say("step", round=number, step=step + 1, of=steps, loss=3.0 / (number + 1), tokens=64)
    say("evaluated", round=number, correct=20 + 10 * number, total=100, loss=1.0)
    if number == last:
        say("worked", round=number, stage="release")


def accelerator(config: dict[str, Any], fake: dict[str, Any]) -> None:
    import threading

    listener = listen(config["listen"].removeprefix("unix:"))
    calls = 0

    def echo(sock: socket.socket) -> None:
        nonlocal calls
        while data := sock.recv(1):
            calls += 1
            sock.sendall(data)

    def leave(signum: int, frame: object) -> None:
        say("offload", calls=calls, bytes_in=calls, bytes_out=calls, busy_seconds=0.0)
        say("memory", peak_mib=1.0)
        say("done")
        os._exit(0)

    stubborn = fake.get("stubborn") == "accelerator"
    signal.signal(signal.SIGTERM, signal.SIG_IGN if stubborn else leave)
    say("ready")
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=echo, args=(sock,), daemon=True).start()


def main() -> None:
    role, config_path = sys.argv[1:]
    config = json.loads(Path(config_path).read_bytes())
    fake = json.loads(Path(config["manifest"]).with_name("fake.json").read_bytes())
    if fake.get("refuse") == role:
        say("error", code=10, error="DigestMismatchError", message="other code", hint="do this")
        sys.exit(10)
    print(f"fake {role} of {config['site']} here", file=sys.stderr)
    {"server": server, "site": client, "accelerator": accelerator}[role](config, fake)


if __name__ == "__main__":
    main()
