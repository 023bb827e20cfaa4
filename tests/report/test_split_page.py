"""The page of a split job."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sealtune.report import chain, heads, write
from sealtune.report.evidence import PARTICIPANT, SERVER, Attested
from sealtune.report.parties import SPLIT, Facts
from sealtune.report.split_picture import narrow, wide
from sealtune.report.svg import text_width
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
        "block 4, query heads: 0, 3 (2 of 4)",
        "at the data owner",
        "server enclave, batches of all sites",
        "loss 2.000",
        "none: its key’s signature",
        "split.activations bf16",
        "tuning.lora.rank 8",
    ):
        assert words in text, words
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
    tuning = job["job"]["tuning"]
    del tuning["method"]
    job["job"]["tuning"] = {"lora": tuning, "spf": None}
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
@pytest.mark.parametrize("release", ["participants", "never", None])
@pytest.mark.parametrize("draw", [wide, narrow])
def test_picture_fits_its_frame(task: str, release: str | None, draw: object) -> None:
    assert callable(draw)
    long = tuple(f"a-very-long-name-of-a-hospital-{i}" for i in range(64))
    facts = Facts(SPLIT, long, True, up=1e12, down=1e12, cut=48, blocks=80, task=task,
                  release=release)  # fmt: skip
    root = ET.fromstring(str(draw(facts)))
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    boxes = [
        [float(box.get(k, 0)) for k in ("x", "y", "width", "height")] for box in root.iter("rect")
    ]
    for left, top, wide_, tall in boxes:
        assert 0 <= left <= left + wide_ <= width
        assert 0 <= top <= top + tall <= height
    for text in root.iter("text"):
        room = text_width("".join(text.itertext()), 11.5)
        anchored = text.get("text-anchor") == "middle"
        assert float(text.attrib["x"]) + (room / 2 if anchored else room) <= width + 12
        assert 0 < float(text.attrib["y"]) < height


def _split(blocks: int, query: int, shared: int, share: float) -> Json:
    def chosen(count: int) -> list[int]:
        return list(range(max(1, int(count * share))))

    layers = {
        f"model.layers.{block}.self_attn": {
            "query": chosen(query), "key-value": chosen(shared), "dense": chosen(query),
        }
        for block in range(blocks)
    }  # fmt: skip
    return {"heads": layers, "query_heads": query, "key_value_heads": shared}


@pytest.mark.parametrize(("blocks", "query", "shared"), [(1, 2, 1), (6, 9, 3), (80, 64, 8)])
def test_heat_map_holds_every_head_in_its_frame(blocks: int, query: int, shared: int) -> None:
    drawn = str(heads.draw(_split(blocks, query, shared, 0.25)))
    assert len(drawn) < 250_000
    figures = re.findall(r"<svg.*?</svg>", drawn, flags=re.DOTALL)
    assert len(figures) == 3
    for figure, count in zip(figures, (query, shared, query), strict=True):
        root = ET.fromstring(figure)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        cells = [path.attrib["d"] for path in root.iter("path") if path.get("class") == "cell"]
        assert len(cells) == blocks
        assert {d.count("M") for d in cells} == {max(1, int(count * 0.25))}
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)", "".join(cells)):
            assert 0 <= float(x) < width
            assert 0 <= float(y) < height
    total = sum(float(ET.fromstring(f).attrib["viewBox"].split()[2]) for f in figures)
    assert total <= 996  # the page's column, less two gaps


def test_heat_map_puts_a_head_where_it_belongs() -> None:
    chosen = {"h.7.attn": {"qkv": [], "dense": [3]}, "h.8.attn": {"qkv": [1]}}
    drawn = str(heads.draw({"heads": chosen, "query_heads": 4, "key_value_heads": 4}))
    assert "block 7, query, key and value heads: none (0 of 4)" in drawn
    assert "block 8, query, key and value heads: 1 (1 of 4)" in drawn
    assert "block 7, dense (output) heads: 3 (1 of 4)" in drawn
    first = ET.fromstring(re.findall(r"<svg.*?</svg>", drawn, flags=re.DOTALL)[0])
    (cell,) = [path.attrib["d"] for path in first.iter("path") if path.get("class") == "cell"]
    ground = next(rect for rect in first.iter("rect") if rect.get("class") == "ground")
    side = float(ground.attrib["width"]) / 4
    x, y = map(float, re.findall(r"[\d.]+", cell)[:2])
    assert x == pytest.approx(float(ground.attrib["x"]) + side, abs=0.1)
    assert y == pytest.approx(float(ground.attrib["y"]) + side, abs=0.1)


def test_no_spf_no_map(tmp_path: Path) -> None:
    happened = [e for e in sample.events() if e["event"] != "heads"]
    page = page_of(tmp_path / "run", happened, sample.resolved(tuning__spf=None))
    assert "Tuned heads" not in page
    assert "LoRA of SmolLM2" in page


def test_trust_chain_of_keys_and_evidence() -> None:
    signed = Attested(SERVER, "north", PARTICIPANT, False, True, 1.8e9)
    for good, kind in ((True, "enclave"), (False, "simulated")):
        proven = Attested("north", SERVER, "tdx", good, True, 1.8e9)
        drawn = str(chain.draw([signed, proven], ("north",), signed=True, split=True))
        ET.fromstring(drawn)
        assert "signature by its key" in drawn
        assert "participant key, no TEE" in drawn
        assert ("protects nothing" in drawn) == (not good)
        assert f'height="68" rx="8" class="{kind}"' in drawn
        assert 'class="owner-line"' in drawn
    other = Attested(SERVER, "north", PARTICIPANT, False, False, 1.8e9)
    assert 'class="owner-line"' not in str(chain.draw([other], ("north",), signed=True, split=True))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    happened = json.loads(json.dumps(sample.events()).replace("south", "SITE"))
    for event in happened:
        if event["event"] == "heads":
            event["heads"] = {f"a.4.{HOSTILE}": {HOSTILE: [1]}, HOSTILE: {"query": [1]}}
        if "sites" in event and isinstance(event["sites"], dict):
            event["sites"][HOSTILE] = event["sites"].pop("SITE") | {"reason": HOSTILE}
    job = sample.resolved(HOSTILE, split__activations=HOSTILE, sites__names=["north", HOSTILE])
    job["job"]["tuning"]["spf"] = {"select": HOSTILE, HOSTILE: HOSTILE}
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
    for key in ("manifest", "plan", "job"):
        job = sample.resolved() | {key: odd}
        assert not Tags(page_of(tmp_path / f"top-{key}", job=job)).stack
    for key in ("split", "tuning", "sites"):
        job = sample.resolved()
        job["job"][key] = odd
        assert not Tags(page_of(tmp_path / f"job-{key}", job=job)).stack
    for key in ("cut", "blocks", "trainable"):
        job = sample.resolved()
        job["plan"][key] = odd
        assert not Tags(page_of(tmp_path / f"plan-{key}", job=job)).stack
    manifest = {"payload": odd}
    page_of(tmp_path / "payload", job=sample.resolved() | {"manifest": manifest})


@pytest.mark.parametrize("length", range(0, 40, 5))
def test_any_beginning_of_a_log_has_a_page(tmp_path: Path, length: int) -> None:
    assert not Tags(page_of(tmp_path / "run", sample.events()[:length])).stack
