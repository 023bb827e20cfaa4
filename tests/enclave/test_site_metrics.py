"""A single site's figures leave the server enclave if the manifest says so, and otherwise only
what they come to over a cohort of organisations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.cli.signing import propose
from sealtune.errors import SiteLostError
from sealtune.job.federated_sections import PrivacySpec
from sealtune.job.keys import public_hex
from sealtune.job.manifest import Participant
from sealtune.job.proposal import sign, wrap
from sealtune.launch.parties import MANIFEST
from sealtune.plan.resolve import resolve
from sealtune.report import build_summary, write
from tests.enclave.flow import SITES, Federation, make_federation, make_job, make_spare_job
from tests.enclave.split_flow import make_split, make_split_job

ALWAYS = {"outcome", "reason", "outlier", "examples", "bytes_up", "bytes_down"}
Json = dict[str, Any]


def run(method: str, folder: Path, base: Path, *, shown: bool) -> Federation:
    privacy = PrivacySpec(site_metrics=shown)
    if method == "split":
        split = make_split(make_split_job(folder, base, privacy=privacy), folder / "run")
        split.run(split.server())
        return split
    federation = make_federation(make_job(folder, base, privacy=privacy), folder / "run")
    federation.run(federation.aggregator())
    return federation


def stages(federation: Federation) -> list[Json]:
    """The server's round reports."""
    return [*federation.of("round", "server"), *federation.of("final", "server")]


def at_the_server(federation: Federation, folder: Path) -> Path:
    """A run folder with the events of the server's machine alone."""
    folder.mkdir()
    (folder / MANIFEST).write_bytes((federation.run_dir / MANIFEST).read_bytes())
    lines = [json.dumps(event) for event in federation.events if event["role"] == "server"]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("method", ["federated", "split"])
def test_no_figure_of_a_single_site_leaves(llama: Path, tmp_path: Path, method: str) -> None:
    federation = run(method, tmp_path, llama, shown=False)
    for event in stages(federation):
        for entry in event["sites"].values():
            assert entry["outcome"] == "ok"
            assert set(entry) <= ALWAYS
        assert set(event) & {"correct", "train_loss"}
    folder = at_the_server(federation, tmp_path / "server")
    found = build_summary(folder)
    figures = ("accuracy_before", "accuracy_after", "loss_before", "loss_after", "seconds")
    for site in SITES:
        own = found["per_site"][site]
        assert set(found["loss_curve"]["sites"][site]) == {None}
        assert set(found["accuracy_curve"]["sites"][site]) == {None}
        said = {**{key: own[key] for key in figures}, "seconds": set(own["seconds"].values())}
        assert said == {**dict.fromkeys(figures), "seconds": {None}}
    assert found["accuracy_after"] is not None
    assert found["sites_tested_after"] == list(SITES)
    page = write(folder).read_text()
    said = json.dumps([e for e in federation.events if e["role"] == "server"])
    for loss in own_losses(federation):
        assert str(loss) not in said
        assert f"{loss:.3f}" not in page


def own_losses(federation: Federation) -> set[float]:
    """What the sites' own processes say of their losses."""
    told = [event for event in federation.events if event["role"].startswith("client:")]
    losses = {e["loss"] for e in told if e["event"] == "evaluated"}
    return losses | {e["train_loss"] for e in told if "train_loss" in e}


@pytest.mark.parametrize("method", ["federated", "split"])
def test_totals_are_those_of_the_sites(llama: Path, tmp_path: Path, method: str) -> None:
    """Shown or not, the joint figures are the same, and add up."""
    both = []
    for shown in (True, False):
        folder = tmp_path / str(shown)
        folder.mkdir()
        both.append(stages(run(method, folder, llama, shown=shown)))
    keys = ("correct", "total", "loss", "train_loss")
    for full, hidden in zip(*both, strict=True):
        assert [full.get(key) for key in keys] == [hidden.get(key) for key in keys]
        entries = full["sites"].values()
        if "correct" in full:
            for key in ("correct", "total"):
                assert full[key] == sum(entry[key] for entry in entries)
            loss = sum(entry["loss"] * entry["total"] for entry in entries) / full["total"]
            assert full["loss"] == pytest.approx(loss)
        elif method == "federated":
            rows = sum(entry["examples"] for entry in entries)
            loss = sum(entry["train_loss"] * entry["examples"] for entry in entries) / rows
            assert full["train_loss"] == pytest.approx(loss)


def test_no_total_of_fewer_organisations_than_a_cohort(llama: Path, tmp_path: Path) -> None:
    """Two sites are as many as a round needs, but one organisation: it would be shown alone."""
    job = make_spare_job(tmp_path, llama, privacy=PrivacySpec())
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]
    owned = (("clinics", ("north", "south")), ("lab", ("west",)))
    people = [
        Participant(org=org, key=public_hex(key.public_key()), sites=sites)
        for (org, sites), key in zip(owned, keys, strict=True)
    ]
    envelope = wrap(propose(resolve(job), people))
    for key in keys:
        envelope = sign(envelope, key)
    federation = make_federation(job, tmp_path / "run", envelope)
    with pytest.raises(SiteLostError):
        federation.run(
            federation.aggregator(),
            network=lambda site, _way, _number, body: None if site == "west" else body,
        )
    before, first = stages(federation)
    assert [entry["outcome"] for entry in before["sites"].values()] == ["ok", "ok", "late"]
    for event in (before, first):
        assert not set(event) & {"correct", "total", "loss", "train_loss"}
        assert all(set(entry) <= ALWAYS for entry in event["sites"].values())
