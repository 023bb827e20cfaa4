"""A whole federated run whose masks a pad accelerator multiplies is the one with the enclave's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.job.sections import ProtectionSpec
from tests.enclave.flow import Federation, make_federation, make_job

SECOND = ProtectionSpec(pads="second-accelerator")


def run(folder: Path, llama: Path, **sections: Any) -> Federation:
    folder.mkdir()
    federation = make_federation(make_job(folder, llama, **sections), folder / "run")
    federation.run(federation.aggregator())
    return federation


def losses(federation: Federation) -> list[tuple[str, float]]:
    return [(e["role"], e["loss"]) for e in federation.of("step")]


@pytest.mark.timeout(600)
def test_every_loss_and_the_adapter_are_bit_equal(llama: Path, tmp_path: Path) -> None:
    own = run(tmp_path / "own", llama)
    second = run(tmp_path / "second", llama, protection=SECOND)
    assert len(losses(own)) == 12
    assert losses(second) == losses(own)
    file = Path("sites", "north", "adapter", "adapter_model.safetensors")
    adapters = [one.run_dir / file for one in (own, second)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
