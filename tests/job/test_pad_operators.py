"""Who multiplies masks is another than who multiplies what they hide."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785

from sealtune.channel import hpke
from sealtune.channel.hpke import KeyPair
from sealtune.errors import ConfigError, MalformedManifestError
from sealtune.job import pad_operators
from sealtune.job.load import load_job
from sealtune.job.manifest import manifest_bytes, parse_manifest
from sealtune.job.pad_operators import PadAccelerator, key_digest
from sealtune.job.settings import Settings
from tests.job.sample import JOB, NETWORK, make_manifest
from tests.sample_job import as_toml, job_values

KEY, OTHER = (KeyPair.generate().public_bytes.hex() for _ in range(2))
SETTINGS = Settings.model_validate(
    JOB.settings.model_dump() | {"protection": {"pads": "second-accelerator"}}
)


def one(**changes: Any) -> dict[str, Any]:
    made = {"operator": "b", "accelerator": "a", "key": KEY, "operators": "independent"}
    return made | changes


PADS = {site: PadAccelerator(**one()) for site in ("north", "south")}


def changed(**pads: Any) -> bytes:
    """The bytes of a manifest of many hosts with these pad accelerators."""
    made = make_manifest(settings=SETTINGS, pad_accelerators=PADS, network=NETWORK)
    return rfc8785.dumps(json.loads(manifest_bytes(made)) | {"pad_accelerators": pads})


def test_sizes_are_those_of_the_key() -> None:
    assert (pad_operators.MLKEM_PUBLIC, pad_operators.PUBLIC_SIZE) == (
        hpke.MLKEM_PUBLIC,
        hpke.PUBLIC_SIZE,
    )


def test_one_may_serve_all_or_each_its_own() -> None:
    assert parse_manifest(changed(north=one(), south=one())).pad_accelerators == PADS
    found = parse_manifest(changed(north=one(), south=one(operator="c", key=OTHER)))
    assert found.pad_accelerators["south"].operator == "c"
    # who multiplies for one site may make pads of another: their masks have nothing in common
    assert parse_manifest(changed(north=one(), south=one(operator="a", accelerator="b", key=OTHER)))


@pytest.mark.parametrize(
    ("south", "said"),
    [
        (one(operator="a"), "a would run the accelerator and the pad accelerator"),
        (one(operator="lab", key=OTHER), "lab would run the pad accelerator of its own site south"),
        (one(operator="c"), "two operators of pad accelerators have the same key"),
        (one(operators="simulated"), "simulated, in a job of many hosts"),
        (one(operators="same"), "operators"),
        (one(key=KEY[:-2]), "key"),
        (one(key=KEY.upper()), "key"),
        (one(key="ff" * 1216), "key"),
        (one(operator="B C"), "operator"),
        ({"operator": "b"}, "pad_accelerators.south"),
        (one(address="tcp:h:1"), "pad_accelerators.south"),
    ],
)
def test_what_is_refused(south: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedManifestError, match=said):
        parse_manifest(changed(north=one(), south=south))


@pytest.mark.parametrize("sites", [(), ("north",), ("north", "south", "west")])
def test_each_site_has_one(sites: tuple[str, ...]) -> None:
    with pytest.raises(MalformedManifestError, match=r"those that protection\.pads needs north"):
        parse_manifest(changed(**{site: one() for site in sites}))


def test_there_are_none_where_enclaves_make_pads() -> None:
    found = json.loads(manifest_bytes(make_manifest()))
    assert found["pad_accelerators"] == {}
    found["pad_accelerators"] = {"north": one(), "south": one()}
    with pytest.raises(MalformedManifestError, match=r"those that protection\.pads needs none"):
        parse_manifest(rfc8785.dumps(found))


def test_on_one_machine_operators_are_simulated_and_named_so() -> None:
    pads = {site: PadAccelerator(**one(operators="simulated")) for site in ("north", "south")}
    made = make_manifest(settings=SETTINGS, pad_accelerators=pads)
    assert {p.operators for p in made.pad_accelerators.values()} == {"simulated"}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"protection": {"pads": "second-accelerator", "protect": "insecure-none"}},
            'protection.pads: is "second-accelerator", but protect = "insecure-none" masks nothing',
        ),
        (
            {"protection": {"pads": "second-accelerator", "pad_budget": 1}},
            "protection.pad_budget: is 1, which is not read: the enclave makes no pads",
        ),
        (
            {"protection": {"pads": "second-accelerator", "compute": "enclave"}},
            "protection.pads: is second-accelerator, which is not read: no accelerator takes part",
        ),
        (
            {
                "protection": {"pads": "second-accelerator"},
                "job": {"method": "split"},
                "split": {"cut": 1},
            },
            "protection.pads: is second-accelerator, which is not read: no accelerator takes part",
        ),
        (
            {
                "protection": {"pads": "second-accelerator"},
                "job": {"trust": "secure-aggregation"},
                "sites": {"names": ["a", "b", "c"]},
            },
            "protection.pads: is second-accelerator, which is not read",
        ),
        ({"protection": {"pads": "B"}}, 'protection.pads: is "B"; it should be one of "enclave"'),
    ],
)
def test_jobs_without_masks_have_none(tmp_path: Any, sections: dict[str, Any], said: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(as_toml(job_values("m", "a.csv", "b.csv", **sections)))
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert said in str(caught.value)


def test_what_people_compare_of_a_key() -> None:
    assert key_digest(KEY) != key_digest(OTHER)
    assert len(key_digest(KEY)) == 64
