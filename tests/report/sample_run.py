"""A realistic run folder without a run: three sites, four rounds, ICD-10 chapters.

Figures that tests add up by hand are literal tables here; step losses follow a noisy curve from a
fixed seed. Used by the report's tests and by whoever works on the page:

    python tests/report/sample_run.py /tmp/sample
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]

SITES = ("hospital-north", "hospital-south", "clinic-coast")
ROUNDS = 4
STEPS = 20
START = 1_795_460_000.0  # 2026-11-23
JOB_ID = "5c0f8b1e" * 12
PLAN_DIGEST = "9a41c7d2" * 8
EXAMPLES = {"hospital-north": 6400, "hospital-south": 5100, "clinic-coast": 3038}
TOTAL = {"hospital-north": 1700, "hospital-south": 1400, "clinic-coast": 867}
BEFORE = {"hospital-north": 85, "hospital-south": 70, "clinic-coast": 39}
AFTER = {"hospital-north": 1190, "hospital-south": 966, "clinic-coast": 546}
# mean training loss by round
LOSS = {
    "hospital-north": (2.61, 1.62, 1.21, 1.02),
    "hospital-south": (2.66, 1.70, 1.30, 1.08),
    "clinic-coast": (2.40, 1.55, 1.18, 0.97),
}
# enclave with its passes over codes, accelerator, pads: seconds of each training round
BUSY = {
    "hospital-north": (30.0, 24.0, 36.0),
    "hospital-south": (28.0, 23.0, 35.0),
    "clinic-coast": (27.0, 22.0, 31.0),
}
ROUND_WALL = 96.0
EVAL_BUSY = dict.fromkeys(SITES, (8.0, 6.0, 10.0))
EVAL_WALL = 28.0
UP, DOWN = 3_700_000, 3_690_000  # bytes of a training round
EVAL_UP, EVAL_DOWN = 900, 1_100
OFFLOAD = (9_600, 21_400_000_000, 26_900_000_000)  # calls, bytes in, bytes out
MEMORY = {
    "server": 612, "client:hospital-north": 2890, "client:hospital-south": 2874,
    "client:clinic-coast": 2851, "accelerator": 1420, "flower": 388,
}  # fmt: skip
VERSIONS = {
    "sealtune": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0",
    "peft": "0.21.0", "flwr": "1.41.0", "cryptography": "50.0.1",
}  # fmt: skip
BASELINES: dict[str, Json] = {
    "local": {
        "kind": "local",
        "accuracy_before": 0.0489,
        "accuracy_after": 0.556,
        "per_site": {
            "hospital-north": {"accuracy": 0.574},
            "hospital-south": {"accuracy": 0.551},
            "clinic-coast": {"accuracy": 0.529},
        },
        "loss_curve": [2.5, 1.6, 1.1, 0.8],
        "seconds": 305.0,
    },
    "pooled": {
        "kind": "pooled",
        "accuracy_before": 0.0489,
        "accuracy_after": 0.702,
        "per_site": {},
        "loss_curve": [2.5, 1.6, 1.2, 1.0],
        "seconds": 252.0,
    },
}


def resolved(**changes: object) -> Json:
    """The manifest of the sample, as far as the report reads it.

    Args:
        changes: settings, ``section__key=value``.
    """
    job: Json = {
        "job": {"name": "icd10-chapters", "seed": 7, "rounds": ROUNDS},
        "model": {
            "task": "classification",
        },
        "data": {
            "template": "{text}",
            "max_tokens": 32,
        },
        "sites": {"names": list(SITES), "partition": "dirichlet", "alpha": 0.5},
        "tuning": {
            "method": "lora",
            "rank": 8,
            "alpha": 16.0,
            "dropout": 0.0,
            "targets": ["q_proj", "k_proj", "v_proj", "o_proj"],
        },
        "protection": {
            "protect": "adapter+data",
            "integrity_bits": 40,
            "attestation": "simulated",
        },
        "train": {"steps_per_round": STEPS, "batch_size": 16, "learning_rate": 0.001},
        "network": {"min_sites": 2, "deadline": 600.0},
    }
    for dotted, value in changes.items():
        section, key = dotted.split("__")
        job[section][key] = value
    return {
        "format": 2,
        "settings": job,
        "labels": [f"chapter {i}" for i in range(1, 22)],
        "plan": plan(),
        "plan_digest": PLAN_DIGEST,
        "model": {"name": "SmolLM2-135M-Instruct", "digest": "d41d8cd9" * 8},
    }


def job_id(signed: Json) -> str:
    """The job id of a manifest; in a written run it stands in the place of ``JOB_ID``."""
    return hashlib.sha384(json.dumps(signed).encode()).hexdigest()


def plan(blocks: int = 30) -> Json:
    """A slice plan as ``sealtune.job.plan`` writes it, as far as the report reads it."""
    frozen = "frozen and linear; its input depends on activations of the owner's text, so it " \
        "crosses under a pad"  # fmt: skip
    modules = [_module("model.embed_tokens", "enclave", "turns token ids into activations")]
    for block in range(blocks):
        root = f"model.layers.{block}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            modules.append(_module(f"{root}.self_attn.{name}", "masked", frozen))
            for half in ("lora_A", "lora_B"):
                reason = "trainable: the tuned parameters never leave the enclave"
                modules.append(_module(f"{root}.self_attn.{name}.{half}", "enclave", reason))
        modules += [
            _module(f"{root}.mlp.{n}", "masked", frozen)
            for n in ("gate_proj", "up_proj", "down_proj")
        ]
        modules += [
            _module(f"{root}.{n}", "enclave", "not linear, or outside the blocks")
            for n in ("mlp.act_fn", "input_layernorm", "post_attention_layernorm")
        ]
    modules.append(
        _module("score", "enclave", "trainable: the tuned parameters never leave the enclave")
    )
    return {
        "architecture": "LlamaForSequenceClassification",
        "protect": "adapter+data",
        "blocks": blocks,
        "prefix_blocks": 0,
        "modules": modules,
    }


def _module(name: str, placement: str, reason: str) -> Json:
    return {
        "name": name,
        "kind": "Linear",
        "role": "other",
        "placement": placement,
        "reason": reason,
    }


class Clock:
    """Stamps events with rising times."""

    def __init__(self) -> None:
        self.now = START
        self.events: list[Json] = []

    def emit(self, role: str, after: float = 0.0, **event: object) -> None:
        """Append an event ``after`` seconds later."""
        self.now += after
        self.events.append({"time": round(self.now, 3), "role": role, **event})


def events(sites: tuple[str, ...] = SITES) -> list[Json]:
    """All events of a run that went well."""
    clock = Clock()
    clock.emit(
        "launcher",
        event="start", versions=VERSIONS, seed=7, job_id=JOB_ID, plan_digest=PLAN_DIGEST,
        code={"aggregator": 5432}, protect="adapter+data", sites=list(sites), majority_class=0.057,
        job_file="examples/icd10.toml",
    )  # fmt: skip
    for role in ("server", *(f"client:{s}" for s in sites), "accelerator"):
        clock.emit(role, 4.0, event="ready")
    for site in sites:
        for by, who in ((site, "server"), ("server", site)):
            role = "server" if by == "server" else f"client:{by}"
            clock.emit(
                role, 0.4, event="attested", who=who, by=by, kind="simulated",
                confidential=False, job_id=JOB_ID,
            )  # fmt: skip
    _evaluation(clock, sites, "round", 0, BEFORE)
    noise = random.Random(11)
    for r in range(1, ROUNDS + 1):
        _training_round(clock, sites, r, noise)
    _evaluation(clock, sites, "final", ROUNDS, AFTER)
    for role, mib in MEMORY.items():
        clock.emit(role, event="memory", peak_mib=mib)
        clock.emit(role, event="done")
    clock.emit("launcher", event="end", outcome="ok", seconds=520.0)
    return clock.events


def _evaluation(clock: Clock, sites: tuple[str, ...], kind: str, r: int, right: Json) -> None:
    entries: Json = {}
    for i, site in enumerate(sites):
        own = SITES[i % len(SITES)]
        loss = 3.4 if kind == "round" else 1.05
        clock.emit(
            f"client:{site}", 3.0, event="evaluated", round=r,
            correct=right[own], total=TOTAL[own], loss=loss,
        )  # fmt: skip
        entries[site] = {
            "outcome": "ok", "reason": "", "examples": EXAMPLES[own],
            "correct": right[own], "total": TOTAL[own],
            "bytes_up": EVAL_UP, "bytes_down": EVAL_DOWN, "seconds": _seconds(EVAL_BUSY[own]),
        }  # fmt: skip
    clock.emit("server", 5.0, event=kind, round=r, sites=entries, seconds=EVAL_WALL)


def _training_round(clock: Clock, sites: tuple[str, ...], r: int, noise: random.Random) -> None:
    entries: Json = {}
    for i, site in enumerate(sites):
        own = SITES[i % len(SITES)]
        for step in range(1, STEPS + 1):
            at = (r - 1) * STEPS + step
            loss = 0.85 + 2.3 * math.exp(-at / 22) + noise.gauss(0, 0.11) - 0.1 * i / len(sites)
            clock.emit(
                f"client:{site}", 0.2, event="step", round=r, step=step, of=STEPS,
                loss=round(loss, 4), tokens=512,
            )  # fmt: skip
        entries[site] = {
            "outcome": "ok", "reason": "", "examples": EXAMPLES[own],
            "train_loss": LOSS[own][r - 1], "bytes_up": UP, "bytes_down": DOWN,
            "seconds": _seconds(BUSY[own]),
        }  # fmt: skip
    calls, into, out = (n * r // ROUNDS for n in OFFLOAD)
    clock.emit(
        "accelerator", 1.0, event="offload", calls=calls, bytes_in=into, bytes_out=out,
        busy_seconds=60.0 * r,
    )  # fmt: skip
    clock.emit(
        "server", 20.0, event="round", round=r, sites=entries, seconds=ROUND_WALL,
        trained_moved=True, frozen_unchanged=True,
    )  # fmt: skip


def _seconds(busy: tuple[float, float, float]) -> Json:
    enclave, accelerator, pads = busy
    passes = enclave / 10
    return {
        "enclave": enclave - passes, "passes": passes, "accelerator": accelerator, "pads": pads
    }  # fmt: skip


def write_run(
    folder: Path,
    happened: list[Json] | None = None,
    job: Json | None = None,
    baselines: dict[str, Json] | None = None,
) -> Path:
    """Write a run folder; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(event) for event in (events() if happened is None else happened))
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    signed = resolved() if job is None else job
    payload = base64.b64encode(json.dumps(signed).encode()).decode()
    envelope = {"payload": payload, "signatures": []}
    (folder / "job.manifest.json").write_text(json.dumps(envelope))
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace(JOB_ID, job_id(signed)))
    for kind, result in (baselines or {}).items():
        (folder / "baselines").mkdir(exist_ok=True)
        (folder / "baselines" / f"{kind}.json").write_text(json.dumps(result))
    return folder


def fail(happened: list[Json], site: str, r: int, outcome: str, reason: str) -> list[Json]:
    """The same events, but ``site`` did not deliver in round ``r``."""
    changed = json.loads(json.dumps(happened))
    for event in changed:
        if event["event"] == "round" and event["round"] == r:
            event["sites"][site] = {"outcome": outcome, "reason": reason}
    return changed


def flag(happened: list[Json], outlier: str, rounds: tuple[int, ...]) -> list[Json]:
    """The same events, but updates were compared, and ``outlier`` is one in these ``rounds``."""
    changed: list[Json] = json.loads(json.dumps(happened))
    for event in changed:
        if event["event"] == "round" and event["round"]:
            for site, stated in event["sites"].items():
                stated["outlier"] = site == outlier and event["round"] in rounds
                stated["agreement"] = -0.214 if stated["outlier"] else 0.187
    return changed


if __name__ == "__main__":
    from sealtune.report import write

    print(write(write_run(Path(sys.argv[1]), baselines=BASELINES)))
