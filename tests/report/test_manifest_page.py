"""The page of a manifest: all that is signed, one file, nothing of it can act."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sealtune.cli.manifest_facts import facts_of
from sealtune.job.key_files import spaced
from sealtune.job.keys import fingerprint
from sealtune.job.manifest import Manifest
from sealtune.job.network import key_fingerprint, node_fingerprint
from sealtune.party.trust import read_policies
from sealtune.report.manifest_page import render
from tests.job.sample import APPRAISAL, JOB, KEYS, NETWORK, make_manifest


def page(manifest: Manifest, signed: tuple[str, ...] = ("clinic", "lab"), fault: str = "") -> str:
    return render(facts_of(manifest, read_policies(manifest), "ab" * 48, signed, fault))


def banners(html: str) -> list[str]:
    found = re.findall(r'<div class="banner( bad)?" role="note">(.*?)</div>', html, re.S)
    return [" ".join(re.sub("<[^>]+>", " ", words).split()) for _, words in found]


def accepted(**changes: Any) -> dict[str, Any]:
    kind = {**APPRAISAL["kinds"]["simulated"], **changes}  # type: ignore[index]
    return {"server": {"version": 1, "kinds": {"simulated": kind}}, "site": APPRAISAL}


def test_it_needs_nothing_else_and_can_do_nothing() -> None:
    html = page(make_manifest(network=NETWORK))
    assert "default-src 'none'" in html
    assert not re.search(r"<(script|link|img|iframe|form|object)|\son\w+=|url\(|@import", html)
    assert set(re.findall(r'href="([^"]*)"', html)) <= {
        *(f"#part-{number}" for number in range(1, 9)), "#who",
    }  # fmt: skip


def test_fingerprints_are_in_groups() -> None:
    html = page(make_manifest(network=NETWORK))
    relay, link = NETWORK.parsed()
    digests = [
        *(fingerprint(key.public_key()) for key in KEYS.values()),
        *(key_fingerprint(one.public_key()) for one in (relay, link)),
        *(node_fingerprint(line) for line in NETWORK.nodes.values()),
    ]
    for digest in digests:
        assert f'<code class="key">{spaced(digest)}</code>' in html
    assert "send to relay.test:9092" in html
    assert "Where they meet" not in page(make_manifest())


def test_what_a_manifest_says_is_text_and_no_markup() -> None:
    labels = ('<script>alert("x")</script>', "b\u202e")
    html = page(make_manifest(labels=labels))
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "\u202e" not in html
    assert r"\u202e" in html


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({}, "Evidence of the server enclave is simulated: not confidential"),
        ({"appraisal": accepted(measurements="any")},
         "The job accepts simulated evidence of any code at all."),
    ],
)  # fmt: skip
def test_what_is_weak_stands_first_and_red(terms: dict[str, Any], words: str) -> None:
    html = page(make_manifest(**terms))
    assert any(words in said for said in banners(html))
    assert html.index('class="banner bad"') < html.index("<section")


def test_hardware_has_no_red() -> None:
    tdx = {"version": 1, "kinds": {"tdx": {"measurements": ["ab" * 48]}}}
    settings = JOB.settings
    protection = settings.protection.model_copy(update={"attestation": "tdx"})
    settings = settings.model_copy(update={"protection": protection})
    html = page(make_manifest(settings=settings, appraisal={"server": tdx, "site": tdx}))
    assert banners(html) == []
    assert 'class="weak"' not in html


def test_who_has_not_signed_and_what_is_wrong_with_a_signature() -> None:
    html = page(make_manifest(), ("lab",))
    assert "Not signed yet by clinic." in " ".join(banners(html))
    assert "not signed by all" in html
    html = page(make_manifest(), (), "the signature of 'lab' is wrong")
    assert "the signature of &#39;lab&#39; is wrong" in html.split("<section")[0]
