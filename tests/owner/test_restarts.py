"""A data owner's process that ends in the middle, and a fresh one that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sealtune.methods.split import release
from tests.enclave.split_flow import SplitFederation, make_split, make_split_job


def adapter(federation: SplitFederation, site: str) -> dict[str, bytes]:
    folder = federation.run_dir / "sites" / site / "adapter"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def has_sent(federation: SplitFederation) -> bool:
    return len(federation.of("uploaded", "client:south")) == 2


def has_received(federation: SplitFederation) -> bool:
    return [e["phase"] for e in federation.of("phase", "client:south")].count("release") == 2


@pytest.mark.parametrize("moment", [has_sent, has_received])
@pytest.mark.usefixtures("small_chunks")
def test_a_fresh_process_goes_on(
    llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: Callable[[SplitFederation], bool],
) -> None:
    """Whether it ended half way through its upload, or with half of the adapter."""
    monkeypatch.setattr(release, "PART", 8_000)
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    restarts: list[int] = []

    def network(site: str, way: str, number: int, body: bytes) -> bytes:
        if (site, way) == ("south", "down") and not restarts and moment(federation):
            federation.start_site("south")
            restarts.append(number)
        return body

    federation.run(federation.server(), network=network)
    assert len(restarts) == 1
    assert federation.of("final")[0]["sites"]["south"]["outcome"] == "ok"
    chunks = [(e["site"], e["chunk"]) for e in federation.of("upload")]
    assert len(chunks) == len(set(chunks))
    assert adapter(federation, "south") == adapter(federation, "north")
    assert "spf_model.safetensors" in adapter(federation, "south")
