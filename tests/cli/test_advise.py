"""``sealtune advise`` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sealtune.advise import assess, equipment
from sealtune.advise.equipment import Speeds
from sealtune.advise.places import Measured
from sealtune.cli.advise import ACCURACY
from sealtune.cli.main import app
from sealtune.errors import ModelError
from tests.advise.test_places import PARTS
from tests.model.tiny import make_llama
from tests.sample_job import write_job

OPTION = [
    "name", "way", "protect", "cut", "own", "memory_mib", "bytes", "seconds", "hours", "cost",
    "ruled_out",
]  # fmt: skip


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "240"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("advise")
    make_llama(found / "model", blocks=4)
    (found / "model" / "model.safetensors").unlink()  # no weights are read
    write_job(found, "./model", rows=(120, 40))
    return found


def job(folder: Path, extra: str = "") -> Path:
    path = write_job(folder, "./model", rows=(120, 40))
    path.write_text(path.read_text() + extra)
    return path


def advice(path: Path, *words: str, code: int = 0) -> dict[str, Any]:
    result = run("advise", path, "--no-probe", "--json", *words)
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_table(folder: Path) -> None:
    result = run("advise", job(folder), "--no-probe")
    assert result.exit_code == 0, result.output
    for words in ("plain PEFT", "Method 1, adapter+data *", "Method 2, cut 3", "MiB"):
        assert words in result.output
    assert "Take: " in result.output
    assert "out: plain PEFT: protects nothing" in result.output
    assert "server_tee_tflops 0.16 (default)" in result.output
    assert ACCURACY in result.output.replace("\n", " ")
    assert " cost" not in result.output.split("Take: ")[0]
    priced = run("advise", job(folder, "[equipment]\nserver_tee_cost = 3\n"), "--no-probe")
    assert "cost" in priced.output.split("Take: ")[0]


@pytest.mark.parametrize("page", ["advise.md", "figures.md"])
def test_the_pages_state_the_same_accuracy(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text().replace("`", "")
    for words in ("within 30 %", "a step of causal-lm takes 40 % longer than estimated"):
        assert words in ACCURACY
        assert words in text


def test_json_keys_are_stable(folder: Path) -> None:
    found = advice(job(folder))
    assert list(found) == [
        "recommended", "reason", "options", "equipment", "data", "accuracy", "places",
    ]  # fmt: skip
    for option in found["options"]:
        assert list(option) == OPTION
        assert list(option["memory_mib"]) == ["client_enclave", "server_enclave", "owner_machine"]
        assert list(option["bytes"]) == ["uplink_site", "uplink", "downlink", "accelerator"]
        assert {"start", "exchanges", "uplink"} <= option["seconds"].keys() or (
            option["way"] == "plain"
        )
    assert found["recommended"] in [option["name"] for option in found["options"]]
    assert found["equipment"]["uplink_mbit"] == {"value": 100.0, "source": "default"}
    assert found["data"]["rows"] == 160
    assert set(found["data"]["tokens"]) == {"north", "south"}


def test_stated_equipment_decides(folder: Path) -> None:
    found = advice(job(folder, "[equipment]\nclient_tee = false\nuplink_mbit = 2\n"))
    assert found["recommended"].startswith("Method 2")
    assert found["equipment"]["uplink_mbit"] == {"value": 2.0, "source": "stated"}
    small = job(folder, "[equipment]\nclient_tee = false\nserver_tee_memory_gib = 0.1\n")
    found = advice(small, code=1)
    assert found["recommended"] is None
    assert "server TEE of 102 MiB cannot hold" in found["reason"]
    shown = run("advise", job(folder, "[equipment]\nclient_tee = false\nmax_hours = 0.001\n"),
                "--no-probe")  # fmt: skip
    assert "Advice: nothing fits" in shown.output
    assert shown.exit_code == 1
    assert "max_hours allows 3.6 s" in shown.output
    assert not re.search(r"[0-9] h\b", shown.output)  # times of seconds, all in one unit


def test_split_jobs_and_prefer(folder: Path) -> None:
    split = "[split]\ncut = 2\n[equipment]\nserver_tee_cost = 1\n"
    path = job(folder, split)
    path.write_text(path.read_text().replace('name = "tiny"', 'name = "tiny"\nmethod = "split"'))
    found = advice(path, "--prefer", "cost")
    assert [o["cut"] for o in found["options"] if o["own"]] == [2]
    assert all(o["cost"] > 0 for o in found["options"])


def test_probing_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equipment, "probe", lambda *_: Speeds(1e12, 4e12, 1e11))
    monkeypatch.setattr(assess, "measure_places", lambda *_: Measured(PARTS, 10.0, 0.0, 2))
    result = run("advise", job(folder), "--json")
    found = json.loads(result.stdout)
    assert found["equipment"]["owner_tflops"] == {"value": 1.0, "source": "probed"}
    assert found["equipment"]["owner_memory_gib"]["source"] == "probed"
    steps = {place["name"]: place["step"] for place in found["places"]}
    assert steps == {
        "masked": 13.0, "second accelerator": 8.0, "enclave": 10.0, "enclave, bf16": 10.0,
    }  # fmt: skip
    shown = " ".join(run("advise", job(folder)).output.split())
    assert "two accelerators of operators who do not collude" in shown
    assert "Fastest in fp32: second accelerator" in shown
    assert "8 s a step, against 10 s for enclave (its enclave: 10 s)" in shown


def test_a_place_that_cannot_be_measured_is_no_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ModelError("it cannot be timed")

    monkeypatch.setattr(equipment, "probe", lambda *_: Speeds(1e12, 4e12, 1e11))
    monkeypatch.setattr(assess, "measure_places", fails)
    result = run("advise", job(folder))
    assert result.exit_code == 0
    assert "places: not measured: it cannot be timed" in result.output


def test_faults(folder: Path) -> None:
    result = run("advise", job(folder, "[equipment]\nuplink = 5\n"))
    assert result.exit_code == 2
    assert "equipment.uplink: unknown key; did you mean 'uplink_mbit'?" in result.stderr
    result = run("advise", job(folder, "[equipment]\nuplink_mbit = 0\n"))
    assert "more than 0" in result.stderr
    assert run("advise", folder / "none.toml").exit_code == 2


def test_help_holds_examples() -> None:
    output = run("advise", "--help").output
    assert "sealtune advise job.toml --prefer cost" in output
    assert "--no-probe" in output
