"""A split job's summary against figures worked out by hand from the sample's tables."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sealtune.cli.results import show_results
from sealtune.report import build_summary
from tests.report import sample_split as sample
from tests.report.sample_run import Clock, Json, write_run


def summary_of(folder: Path, happened: list[Json] | None = None, job: Json | None = None) -> Json:
    happened = sample.events() if happened is None else happened
    return build_summary(write_run(folder, happened, sample.resolved() if job is None else job))


@pytest.fixture
def summary(tmp_path: Path) -> Json:
    return summary_of(tmp_path / "run")


def test_what_the_job_was(summary: Json) -> None:
    assert (summary["method"], summary["protect"]) == ("split", "split")
    split = summary["split"]
    said = [split[k] for k in ("cut", "blocks", "activations", "precision", "release")]
    assert said == [4, 6, "bf16", "fp32", "participants"]
    assert split["heads"] == sample.HEADS
    assert (split["query_heads"], split["key_value_heads"]) == (4, 2)


def test_uploads(summary: Json) -> None:
    split = summary["split"]
    # 30 + 10 rows; 400 + 200 tokens; two chunks and two handshakes
    assert split["sites"]["north"] == {
        "samples": 40, "tokens": 600, "chunks": 2, "chunks_planned": 2,
        "bytes_up": 26_000 + 13_000 + 2 * 500,
    }  # fmt: skip
    assert (split["samples"], split["tokens"]) == (65, 900)
    assert split["hidden_size"] == 32
    assert split["raw_bytes"] == 900 * 32 * 2
    assert split["uplink_ratio"] == pytest.approx((40_000 + 20_600) / (900 * 64))
    assert summary["bytes"]["up"] == split["bytes_up"] == 60_600
    assert summary["per_site"]["south"]["bytes"] == {"up": 20_600, "down": 800 + 9_000}


def test_a_chunk_made_again_counts_once_and_one_that_never_came_not_at_all(tmp_path: Path) -> None:
    happened = sample.events()
    first = next(i for i, e in enumerate(happened) if e["event"] == "uploaded")
    happened.insert(first, dict(happened[first]))
    assert summary_of(tmp_path / "a", happened)["split"]["tokens"] == 900
    taken = [i for i, e in enumerate(happened) if e["event"] == "upload" and e["chunk"] == 2]
    lost = summary_of(tmp_path / "b", happened[: taken[0]])["split"]["sites"]["north"]
    assert (lost["tokens"], lost["chunks"], lost["samples"]) == (400, 1, None)


def test_an_upload_in_two_attempts(tmp_path: Path) -> None:
    happened = sample.events()
    second = next(i for i, e in enumerate(happened) if e["event"] == "uploaded" and e["chunk"] == 2)
    clock = Clock()
    clock.emit("launcher", event="start", resume=True)
    again = json.loads(json.dumps([*clock.events, *happened[second - 1 :]]))
    for event in again:  # this server has counted since its own start
        if event["event"] == "upload":
            event["bytes"] = 500 + 13_000
        elif event["event"] == "round" and event["round"] == 0:
            event["sites"]["north"]["bytes_up"] = 500 + 13_000
            event["sites"]["south"]["bytes_up"] = 0
    found = summary_of(tmp_path / "run", [*happened[: second - 1], *again])
    assert found["attempts"] == 2
    # a third handshake, otherwise the same
    assert found["split"]["sites"]["north"]["bytes_up"] == 40_000 + 500
    assert found["per_site"]["south"]["bytes"]["up"] == 20_600
    assert found["split"]["tokens"] == 900


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        ("base_model.model.model.layers.5.self_attn.q_proj.lora_A.weight", [8, 48], 48),
        ("base_model.model.model.layers.5.self_attn.o_proj.lora_B.weight", [48, 8], 48),
        ("model.layers.5.self_attn.o_proj.spf.delta", [48, 16], 48),
        ("model.layers.5.self_attn.k_proj.spf.delta", [16, 48], 48),
        ("model.layers.5.self_attn.q_proj.lora_B.weight", [99, 8], 32),  # says nothing: by bytes
        ("model.layers.5.self_attn.q_proj.lora_A.weight", "odd", 32),
    ],
)
def test_hidden_size(tmp_path: Path, name: str, shape: Any, size: int) -> None:
    job = sample.resolved()
    job["plan"]["trainable"] = {name: shape}
    assert summary_of(tmp_path / "run", job=job)["split"]["hidden_size"] == size


def test_one_loss_for_all_sites(summary: Json) -> None:
    nothing = [None, None]
    sites = {"north": nothing, "south": nothing}
    assert summary["loss_curve"] == {"rounds": [1, 2], "all": [2.0, 1.5], "sites": sites}
    assert summary["losses_not_finite"] == 0
    assert summary["accuracy_curve"]["sites"]["north"] == [0.1, 0.4, 0.7]
    assert summary["accuracy_after"] == pytest.approx(10 / 15)
    assert summary["per_site"]["north"]["examples"] == 30


def test_a_loss_of_the_server_that_is_none_is_counted(tmp_path: Path) -> None:
    happened = sample.events()
    next(e for e in happened if e.get("train_loss"))["train_loss"] = None
    found = summary_of(tmp_path / "run", happened)
    assert found["losses_not_finite"] == 1
    assert found["loss_curve"]["all"] == [None, 1.5]


def test_seconds_add_up_to_the_wall_time(summary: Json) -> None:
    seconds = summary["seconds"]
    assert seconds["server"] == pytest.approx(4 + 2 * 4.75 + 3)
    assert seconds["enclave"] == pytest.approx((8 + 6) / 2)
    # 20 - 4 - 8, twice 5 - 4.75, 10 - 3
    assert seconds["network"] == pytest.approx(8 + 2 * 0.25 + 7)
    assert seconds["waiting"] == pytest.approx((0 + 2) / 2)
    assert sum(v for k, v in seconds.items() if k != "total") == pytest.approx(60)
    assert summary["per_site"]["south"]["seconds"]["server"] == seconds["server"]


def test_signatures_of_sites_neither_protect_nor_spoil(tmp_path: Path, summary: Json) -> None:
    assert (summary["confidential"], summary["evidence"]) == (False, ["simulated"])
    job, happened = sample.resolved(protection__attestation="tdx"), sample.events("tdx")
    found = summary_of(tmp_path / "a", happened, job)
    assert (found["confidential"], found["evidence"]) == (True, ["tdx"])
    of_server = [e for e in happened if e["event"] == "attested" and e["who"] == "server"]
    without = [e for e in happened if e not in (of_server[0], of_server[2])]  # north's, both times
    assert summary_of(tmp_path / "b", without, job)["confidential"] is False
    signed = [e for e in happened if e["event"] != "attested" or e["who"] != "server"]
    assert summary_of(tmp_path / "c", signed, job)["confidential"] is None
    for event in of_server:
        event["job_id"] = "00" * 48
    assert summary_of(tmp_path / "d", happened, job)["confidential"] is False


def test_the_level_of_an_accelerator_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    settings = {"protection__attestation": "tdx", "protection__protect": "insecure-none"}
    job = sample.resolved(**settings)
    assert summary_of(tmp_path / "run", sample.events("tdx"), job)["confidential"] is True


def test_the_final_table_blames_who_is_to_blame(tmp_path: Path, summary: Json) -> None:
    federated = build_summary(write_run(tmp_path / "federated"))
    out = io.StringIO()
    for one in (summary, federated):
        show_results(one, tmp_path, tmp_path / "report.html", Console(file=out, width=200))
    split, other = out.getvalue().split("NOT CONFIDENTIAL: ")[:2]
    assert "sites 12%, server 28%, network 26%, waiting 2%, other 33%" in split
    assert "accelerator" not in split
    assert other.startswith("the server enclave showed simulated evidence")
    assert "enclave 22%, passes 2%, accelerator 20%, pads 30%, network 6%, waiting 4%" in other
    assert "participant" not in out.getvalue()


@pytest.mark.parametrize("length", range(0, 40, 3))
def test_any_beginning_of_a_log_can_be_summarised(tmp_path: Path, length: int) -> None:
    found = summary_of(tmp_path / "run", sample.events()[:length])
    assert found["method"] == "split"
    json.dumps(found, allow_nan=False)


def test_without_the_resolved_job_the_log_says_that_it_was_split(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sample.events(), sample.resolved())
    (run / "job.manifest.json").unlink()
    found = build_summary(run)
    assert found["method"] == "split"
    assert found["split"]["release"] is None
    assert found["split"]["tokens"] == 900
