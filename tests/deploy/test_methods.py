"""The other two ways of a job across hosts: split, and secure aggregation."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sealtune.demo.consortium import COORDINATOR, SERVER
from tests.deploy import needles
from tests.deploy.setting import (
    SITES,
    consortium,
    end_all,
    events_of,
    job_values,
    losses,
    needs_hosts,
    run_on_one_machine,
    start_all,
)
from tests.deploy.wire import streams
from tests.model.tiny import LABELS

pytestmark = [needs_hosts, pytest.mark.slow, pytest.mark.timeout(900)]
JOBS: dict[str, dict[str, Any]] = {
    "split": {
        "job": {"name": "tiny", "method": "split", "seed": 3, "rounds": 1},
        "split": {"cut": 1, "activations": "fp32"},
        "tuning": {"lora": {"rank": 4}},
        "train": {"steps_per_round": 3, "batch_size": 8, "learning_rate": 5e-3},
        "aggregation": {},
    },
    "secure-aggregation": {
        "job": {"name": "tiny", "seed": 3, "rounds": 1, "trust": "secure-aggregation"},
        "aggregation": {"norm_bound": "none"},
    },
}


@pytest.mark.parametrize("way", JOBS)
def test_it_ends_as_on_one_machine(way: str, tmp_path: Path, llama: Path) -> None:
    values = job_values(**JOBS[way])
    values = {name: section for name, section in values.items() if section}
    alone = run_on_one_machine(tmp_path, llama, values)
    wire = tmp_path / "coordinator.pcap"
    with consortium(tmp_path, llama, values) as group, ExitStack() as stack:
        group.agree()
        with group.hosts[COORDINATOR].capture(wire):
            parties = start_all(group, stack)
            codes = end_all(parties)
        assert set(codes.values()) == {0}, codes
        wanted = losses(events_of(alone / "metrics.jsonl"))
        assert losses(parties[SERVER].events) == wanted
        assert wanted
        adapter = (alone / "adapter" / "adapter_model.safetensors").read_bytes()
        forbidden = dict(needles.of_words(LABELS)) | needles.of_adapter(alone / "adapter")
        for site in SITES:
            folder = group.folder(site)
            own = folder / site / "sites" / site / "adapter" / "adapter_model.safetensors"
            assert own.read_bytes() == adapter
            forbidden |= needles.of_rows(folder / "train.jsonl", folder / "test.jsonl")
    for said in streams(wire).values():
        assert needles.found_in(said, forbidden) == []
