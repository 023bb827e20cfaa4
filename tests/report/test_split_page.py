"""The page of a split job."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sealtune.report import write
from sealtune.report.evidence import PARTICIPANT, SERVER, Verdict, chain
from sealtune.report.methods import view_of
from sealtune.report.parties import Facts
from tests.report import sample_run
from tests.report import sample_split as sample
from tests.report.sample_run import Json, write_run
from tests.report.test_page import HOSTILE, Tags


def page_of(folder: Path, happened: list[Json] | None = None, job: Json | None = None) -> str:
    happened = sample.events() if happened is None else happened
    run = write_run(folder, happened, sample.resolved() if job is None else job)
    return write(run).read_text(encoding="utf-8")


def words_of(page: str) -> str:
    tags = Tags(re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL))
    return " ".join(" ".join(tags.text).replace("\u00a0", " ").split())


@pytest.fixture
def page(tmp_path: Path) -> str:
    return page_of(tmp_path / "run")


def test_what_is_said(page: str) -> None:
    text = words_of(page)
    for words in (
        "SPF 50 % of QKV and 25 % of dense + LoRA of SmolLM2-135M-Instruct",
        "split after block 4 of 6",
        "1.05 × the bare activations",
        "39.1 KiB",  # north's uploads
        "in the server enclave 16 s",
        "4 of 8 (50 %)",  # query heads in two blocks
        "at the data owner",
        "server enclave, batches of all sites",
        "loss 2.000",
        "none: its key’s signature",
        "split.activations bf16",
        "tuning.lora.rank 8",
    ):
        assert words in text, words
    assert 'aria-label="block 4, query heads: 0, 3 (2 of 4)"' in page
    for words in ("accelerator", "making pads", "Masks", "aggregator", "adapter+data"):
        assert words not in text, words


def test_other_methods_have_nothing_of_it(tmp_path: Path) -> None:
    text = words_of(write(write_run(tmp_path / "run")).read_text())
    for words in ("Tuned heads", "Uploads", "server enclave, batches", "at the data owner"):
        assert words not in text, words
    for words in ("calls of the accelerator", "making pads", "aggregator enclave"):
        assert words in text, words


def test_settings_of_a_federated_job_in_either_form(tmp_path: Path) -> None:
    old = words_of(write(write_run(tmp_path / "old")).read_text())
    job = sample_run.resolved()
    tuning = job["settings"]["tuning"]
    del tuning["method"]
    job["settings"]["tuning"] = {"lora": tuning, "spf": None}
    new = words_of(write(write_run(tmp_path / "new", job=job)).read_text())
    assert "LoRA of SmolLM2" in old
    assert "LoRA of SmolLM2" in new
    assert "tuning.rank 8" in old
    assert "tuning.lora.rank 8" in new


def test_simulated_evidence_is_said_first(page: str) -> None:
    main = page[page.index("<main>") :]
    assert main.index("The server enclave of this run was an ordinary process") < main.index(
        "<section"
    )


def test_hardware_evidence_has_no_banner(tmp_path: Path) -> None:
    job = sample.resolved(protection__attestation="tdx")
    page = page_of(tmp_path / "run", sample.events("tdx"), job)
    assert 'class="banner' not in page
    assert "SIMULATED" not in page
    assert "protects nothing" not in page


def test_a_lost_site_and_a_kept_adapter_are_said(tmp_path: Path) -> None:
    lost = sample.lose(sample.events(), "south", "no answer within 600 s")
    text = words_of(page_of(tmp_path / "a", lost, sample.resolved("never")))
    assert "south is not in the training." in text
    assert "The server’s word on it: no answer within 600 s." in text
    assert "answers are missing" not in text
    assert "The adapter stayed in the server enclave." in text
    assert "no adapter: it stays" in text
    late = sample.events()
    end = next(e for e in late if e["event"] == "final")
    end["sites"]["south"] = {"outcome": "late", "reason": "gone"}
    text = words_of(page_of(tmp_path / "b", late))
    assert "south was lost after the training." in text
    assert "is not in the training" not in text
    assert "stayed in the server enclave" not in text


def test_token_ids_of_a_language_model_are_not_hushed_up(tmp_path: Path) -> None:
    job = sample.resolved(model__task="causal-lm")
    assert "token ids, so the text itself" in words_of(page_of(tmp_path / "a", job=job))
    assert "token ids" not in words_of(page_of(tmp_path / "b"))


@pytest.mark.parametrize("task", ["classification", "causal-lm"])
@pytest.mark.parametrize("release", ["participants", "never"])
def test_every_party_is_on_the_page(tmp_path: Path, task: str, release: str) -> None:
    text = words_of(page_of(tmp_path / "run", job=sample.resolved(release, model__task=task)))
    facts = Facts(sites=sample.SITES, simulated=True, cut=4, blocks=6, release=release, task=task)
    parties = view_of("split").parties(facts)
    assert len(parties) == 4
    for party in parties:
        for words in (party.title, party.trust, party.sees, party.never):
            assert words in text, words


def test_no_spf_no_map(tmp_path: Path) -> None:
    happened = [e for e in sample.events() if e["event"] != "heads"]
    page = page_of(tmp_path / "run", happened, sample.resolved(tuning__spf=None))
    assert "Tuned heads" not in page
    assert "LoRA of SmolLM2" in page


def test_heads_that_follow_from_data_are_said_to_be_withheld(tmp_path: Path) -> None:
    happened = [e for e in sample.events() if e["event"] != "heads"]
    spf = {"query": 0.5, "key": 0.5, "value": 0.5, "dense": 0.5, "select": "fisher"}
    for released in (False, True):
        tuning = {**spf, "release_heads": released}
        page = page_of(tmp_path / "run", happened, sample.resolved(tuning__spf=tuning))
        assert ("They stayed in the server enclave" in page) is not released


def test_trust_chain_of_keys_and_evidence() -> None:
    signed = Verdict(SERVER, "north", PARTICIPANT, False, True, 1.8e9)
    for good, look in ((True, "enclave"), (False, "simulated")):
        proven = Verdict("north", SERVER, "tdx", good, True, 1.8e9)
        drawn = chain([signed, proven], ("north",), view_of("split"))
        (row,) = drawn["rows"]
        key, evidence = row["proofs"]
        assert "signature by its key" in key["said"]
        assert row["end"] == {"name": "north", "role": "participant key, no TEE", "look": "owner"}
        assert ("protects nothing" in evidence["said"]) == (not good)
        assert [key["look"], evidence["look"], drawn["server"]["look"]] == ["owner", look, look]
    other = Verdict(SERVER, "north", PARTICIPANT, False, False, 1.8e9)
    (row,) = chain([other], ("north",), view_of("split"))["rows"]
    assert row["proofs"][0]["look"] == "simulated"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    happened = json.loads(json.dumps(sample.events()).replace("south", "SITE"))
    for event in happened:
        if event["event"] == "heads":
            event["heads"] = {f"a.4.{HOSTILE}": {HOSTILE: [1]}, HOSTILE: {"query": [1]}}
        if "sites" in event and isinstance(event["sites"], dict):
            event["sites"][HOSTILE] = event["sites"].pop("SITE") | {"reason": HOSTILE}
    job = sample.resolved(HOSTILE, split__activations=HOSTILE, sites__names=["north", HOSTILE])
    job["settings"]["tuning"]["spf"] = {"select": HOSTILE, HOSTILE: HOSTILE}
    tags = Tags(page_of(tmp_path / "run", happened, job))
    assert not {name for name, _ in tags.seen} & {"script", "img"}
    assert all(not name.startswith("on") for _, attributes in tags.seen for name in attributes)


ODD: list[object] = [None, "x", -1, 1.5, [], [[1]], {}, {"a": [1]}, True, 1e400, 10**400]


@pytest.mark.parametrize("odd", ODD, ids=[str(i) for i in range(len(ODD))])
def test_odd_values_still_give_a_page(tmp_path: Path, odd: object) -> None:
    keys = ("heads", "chunk", "of", "tokens", "bytes", "site", "query_heads", "train_loss",
            "server_seconds", "sites")  # fmt: skip
    for key in keys:
        happened = [e | {key: odd} if key in e else e for e in sample.events()]
        assert not Tags(page_of(tmp_path / key, happened)).stack
    for groups in ({"a.4.b": odd}, {"a.4.b": {"query": odd}}, {"a.4.b": {"query": [odd, 1]}}):
        happened = [e | {"heads": groups} if "heads" in e else e for e in sample.events()]
        assert not Tags(page_of(tmp_path / "heads-in", happened)).stack
    for key in ("release", "data", "model", "plan", "settings"):
        job = sample.resolved() | {key: odd}
        assert not Tags(page_of(tmp_path / f"top-{key}", job=job)).stack
    for key in ("split", "tuning", "sites"):
        job = sample.resolved()
        job["settings"][key] = odd
        assert not Tags(page_of(tmp_path / f"job-{key}", job=job)).stack
    for key in ("cut", "blocks", "trainable"):
        job = sample.resolved()
        job["plan"][key] = odd
        assert not Tags(page_of(tmp_path / f"plan-{key}", job=job)).stack
    run = write_run(tmp_path / "payload", sample.events())
    (run / "job.manifest.json").write_text(json.dumps({"payload": odd}))
    assert not Tags(write(run).read_text()).stack


@pytest.mark.parametrize("length", range(0, 40, 5))
def test_any_beginning_of_a_log_has_a_page(tmp_path: Path, length: int) -> None:
    assert not Tags(page_of(tmp_path / "run", sample.events()[:length])).stack
