"""A made-up run folder of a split job: two sites, two rounds, 4 of 6 blocks at the sites.

python tests/report/sample_split.py /tmp/sample
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.report import sample_run
from tests.report.sample_run import JOB_ID, Clock, Json, write_run

SITES = ("north", "south")
HIDDEN = 32
ROWS = {"north": (30, 10), "south": (20, 5)}  # training, test
TOKENS = {"north": (400, 200), "south": (300,)}  # of each chunk
HANDSHAKE = 500  # bytes up before the first chunk, and again at the end
CHUNK = {"north": (26_000, 13_000), "south": (19_600,)}  # bytes of each message
RIGHT = ({"north": 1, "south": 0}, {"north": 4, "south": 2}, {"north": 7, "south": 3})
LOSS = (2.0, 1.5)
HEADS = {
    "model.layers.4.self_attn": {"query": [0, 3], "key-value": [1], "dense": [2]},
    "model.layers.5.self_attn": {"query": [1, 2], "key-value": [0], "dense": [3]},
}


def resolved(release: str = "participants", **changes: object) -> Json:
    """The manifest; ``changes`` are settings, ``section__key=value``."""
    found = sample_run.resolved(
        job__name="split",
        job__method="split",
        job__rounds=2,
        sites__names=list(SITES),
    )
    job: Json = found["settings"]
    job["split"] = {"cut": 4, "activations": "bf16"}
    job["train"]["precision"] = "fp32"
    lora = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": ["q_proj"], "layers": None}
    qkv = dict.fromkeys(("query", "key", "value"), 0.5)
    spf = {**qkv, "dense": 0.25, "select": "l1-largest", "layers": None}
    job["tuning"] = {"lora": lora, "spf": spf}
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        job[section][key] = value
    owner, enclave = "frozen, below the cut: runs once for each text", "above the cut"
    modules = [(f"model.layers.{i}", "owner" if i < 4 else "enclave") for i in range(6)]
    found["plan"] = {
        "architecture": "LlamaForSequenceClassification",
        "protect": "split",
        "blocks": 6,
        "cut": 4,
        "prefix_blocks": 0,
        "modules": [
            {"name": n, "placement": p, "reason": owner if p == "owner" else enclave}
            for n, p in modules
        ],
        "trainable": {"base_model.model.score.weight": [21, HIDDEN]},
    }
    data = {site: {"train_rows": a, "test_rows": b} for site, (a, b) in ROWS.items()}
    return found | {"release": release, "data": data}


def events(kind: str = "simulated") -> list[Json]:
    """All events of a run that went well; ``kind`` of evidence is the server's."""
    clock = Clock()
    clock.emit(
        "launcher",
        event="start", versions=sample_run.VERSIONS, seed=7, job_id=JOB_ID, protect="split",
        sites=list(SITES), majority_class=0.25, job_file="split.toml",
    )  # fmt: skip
    _attested(clock, kind)
    for number in range(2):
        for site in SITES:
            if number < len(CHUNK[site]):
                upload(clock, site, number)
    clock.emit("server", event="heads", heads=HEADS, query_heads=4, key_value_heads=2)
    sent = {site: HANDSHAKE + sum(CHUNK[site]) for site in SITES}
    busy = {"north": 8.0, "south": 6.0}
    _round(clock, 0, 20.0, 4.0, busy, up=sent, down=800)
    for number, loss in enumerate(LOSS, 1):
        clock.emit("server", event="phase", round=number, phase="train", of=3)
        for step in range(1, 4):
            clock.emit(
                "server", 1.0, event="step", round=number, step=step, of=3,
                loss=loss + 0.1 * (2 - step), tokens=64,
            )  # fmt: skip
        _round(clock, number, 5.0, 4.75, train_loss=loss, trained_moved=True, frozen_unchanged=True)
    clock.emit("server", event="exported", difference=0.0, agreement=1.0)
    _attested(clock, kind)
    _round(clock, 2, 10.0, 3.0, event="final", up=dict.fromkeys(SITES, HANDSHAKE), down=9_000)
    clock.emit("launcher", event="end", outcome="ok", seconds=60.0)
    return clock.events


def upload(clock: Clock, site: str, number: int) -> None:
    """A site makes a chunk, and the server takes it in."""
    of, tokens = len(CHUNK[site]), TOKENS[site][number]
    client = f"client:{site}"
    clock.emit(client, 0.5, event="phase", round=0, phase="upload", of=of)
    clock.emit(client, 2.0, event="uploaded", chunk=number + 1, of=of, tokens=tokens)
    sent = HANDSHAKE + sum(CHUNK[site][: number + 1])
    clock.emit("server", 0.1, event="upload", site=site, chunk=number + 1, of=of, bytes=sent)


def _attested(clock: Clock, kind: str) -> None:
    for site in SITES:
        server = {"kind": kind, "confidential": kind != "simulated", "job_id": JOB_ID}
        clock.emit(f"client:{site}", 0.2, event="attested", who="server", by=site, **server)
        client: Json = {"kind": "participant", "confidential": False, "job_id": JOB_ID}
        clock.emit("server", 0.2, event="attested", who=site, by="server", **client)


def _round(
    clock: Clock,
    number: int,
    wall: float,
    server: float,
    busy: dict[str, float] | None = None,
    up: dict[str, int] | None = None,
    down: int = 0,
    event: str = "round",
    **more: Any,
) -> None:
    sites: Json = {}
    for site, (train, test) in ROWS.items():
        sites[site] = {
            "outcome": "ok", "reason": "", "examples": train, "train_loss": None,
            "correct": RIGHT[number][site], "total": test, "loss": 3.0 - number,
            "bytes_up": (up or {}).get(site, 0), "bytes_down": down,
            "seconds": {"enclave": (busy or {}).get(site, 0.0), "accelerator": 0.0, "pads": 0.0},
        }  # fmt: skip
    clock.emit(
        "server", 1.0, event=event, round=number, sites=sites, seconds=wall, server_seconds=server,
        **more,
    )  # fmt: skip


def lose(happened: list[Json], site: str, reason: str) -> list[Json]:
    """The same run, but ``site`` never sent its samples."""
    changed: list[Json] = json.loads(json.dumps(happened))
    for event in changed:
        if event["event"] in ("round", "final"):
            event["sites"][site] = {"outcome": "failed", "reason": reason, "train_loss": None}
    return [
        event
        for event in changed
        if not (event["event"] == "upload" and event["site"] == site)
        and not (event["event"] == "uploaded" and event["role"] == f"client:{site}")
    ]


if __name__ == "__main__":
    from sealtune.report import write

    print(write(write_run(Path(sys.argv[1]), events(), resolved())))
