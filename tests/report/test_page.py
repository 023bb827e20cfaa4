"""The page: complete, self-contained, honest, and safe against hostile names."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sealtune.errors import StorageError
from sealtune.report import write
from tests.report import sample_run as sample
from tests.report.sample_run import Json, events, fail, flag, resolved, write_run

HOSTILE = "</text><script>alert(1)</script><img src=//x.example/y onerror='z'>\"&"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Tags(HTMLParser):
    """Collects tags and attributes, and checks that they nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(folder: Path, happened: list[Json] | None = None, job: Json | None = None) -> str:
    path = write(write_run(folder, happened, job))
    assert (folder / "summary.json").is_file()
    return path.read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write(write_run(tmp_path / "run", baselines=sample.BASELINES)).read_text()


def test_nothing_is_fetched(page: str) -> None:
    tags = Tags(page)
    assert not tags.stack
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in tags.seen:
        assert not attributes.keys() & {"src", "srcset", "xlink:href", "action", "background"}
        assert all(not name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "://" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert len(page) < 400_000


def test_every_section_and_figure_is_there(page: str) -> None:
    text = " ".join("".join(Tags(page).text).replace("\u00a0", " ").split())
    for heading in ("Result", "Who saw what", "Curves", "Sites", "Cost", "Rounds", "Trust chain"):
        assert heading in text
    for figure in ("4.9 %", "68.1 %", "5.7 %", "55.6 %", "42.3 MiB", "19.9 GiB", "8 min 40 s"):
        assert figure in text
    assert "sealtune run examples/icd10.toml --runs runs-again" in text
    assert sample.PLAN_DIGEST in text
    assert "12.5 points better" in text


def test_the_code_of_each_program_is_counted(page: str) -> None:
    assert "lines of sealtune loaded at start" in page
    assert " ".join(page.split()).count("aggregator 5,432") == 1


def test_simulated_evidence_is_said_first(page: str) -> None:
    main = page[page.index("<main>") :]
    assert main.index("Simulated evidence: not confidential.") < main.index("<section")


def test_hardware_evidence_has_no_banner(tmp_path: Path) -> None:
    happened = events()
    for event in happened:
        if event["event"] == "attested":
            event |= {"kind": "tdx", "confidential": True}
    page = page_of(tmp_path / "a", happened, resolved(protection__attestation="tdx"))
    assert 'class="banner' not in page
    assert "SIMULATED" not in page


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    happened = events(("hospital-north", "hospital-south", HOSTILE))
    changed = fail(happened, HOSTILE, 2, HOSTILE, HOSTILE)
    for event in changed:
        if event["event"] == "attested":
            event["kind"] = HOSTILE
        if event["event"] == "start":
            event["versions"] = {HOSTILE: HOSTILE}
            event["code"] = {HOSTILE: 1}
    job = resolved(sites__names=["hospital-north", "hospital-south", HOSTILE], job__name=HOSTILE)
    job["labels"] = [HOSTILE, "b"]
    job["plan"]["modules"][0] |= {"name": HOSTILE, "placement": HOSTILE, "reason": HOSTILE}
    job["job_id"] = HOSTILE
    changed.append({"event": "error", "message": HOSTILE, "hint": HOSTILE})
    page = page_of(tmp_path / "run", changed, job)
    tags = Tags(page)
    assert not {name for name, _ in tags.seen} & {"script", "img"}
    assert all(not name.startswith("on") for _, attributes in tags.seen for name in attributes)
    assert "".join(tags.text).count("alert(1)") > 5


def test_failed_client_shows_outcome_and_reason(tmp_path: Path) -> None:
    happened = fail(events(), "clinic-coast", 2, "failed", "exit code 5: accelerator lost")
    page = page_of(tmp_path / "run", happened)
    assert 'class="badge failed">failed' in page
    assert "exit code 5: accelerator lost" in page
    assert "1 answer is missing." in page


def test_outliers_are_named_and_marked_in_their_rounds(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", flag(events(), "clinic-coast", (2, 4)))
    assert page.count('class="badge late">outlier') == 2
    assert "clinic-coast was an outlier in 2 of 4 rounds." in page
    assert page.count("was an outlier") == 1
    assert (page.count("cosine -0.21"), page.count("cosine 0.19")) == (2, 10)
    assert "cosine" not in page_of(tmp_path / "other")


def test_interrupted_run_has_a_page(tmp_path: Path) -> None:
    cut = next(i for i, e in enumerate(events()) if e["event"] == "round" and e["round"] == 2)
    end = {"event": "end", "outcome": "interrupted", "seconds": 99.0}
    page = page_of(tmp_path / "run", [*events()[:cut], end])
    assert "The run was interrupted after 1 of 4 rounds." in page
    assert "not measured" in page


@pytest.mark.parametrize("length", [0, 1, 5, 14, 40])
def test_any_beginning_of_a_log_has_a_page(tmp_path: Path, length: int) -> None:
    assert not Tags(page_of(tmp_path / "run", events()[:length])).stack


def test_page_without_resolved_job(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "job.manifest.json").unlink()
    page = write(run).read_text()
    assert "68.1" in page


@pytest.mark.parametrize("odd", [None, "x", -3, 1.5, [], [[1]], {}, {"a": [1]}, True, math.inf])
def test_odd_values_in_either_file_still_give_a_page(tmp_path: Path, odd: object) -> None:
    keys = ("sites", "round", "seconds", "loss", "outcome", "versions", "time", "majority_class")
    for key in keys:
        happened = [e | {key: odd} if key in e else e for e in events()]
        assert not Tags(page_of(tmp_path / key, happened)).stack
    for key in resolved():
        assert not Tags(page_of(tmp_path / f"top-{key}", job=resolved() | {key: odd})).stack
    for key in resolved()["settings"]:
        job = resolved()
        job["settings"][key] = odd
        assert not Tags(page_of(tmp_path / f"job-{key}", job=job)).stack
    baselines = {"local": {"per_site": odd, "accuracy_after": odd, "loss_curve": odd}}
    write(write_run(tmp_path / "baseline", baselines=baselines))


def test_loss_that_is_not_a_number_is_said(tmp_path: Path) -> None:
    happened = events()
    next(e for e in happened if e["event"] == "step")["loss"] = math.nan
    page = page_of(tmp_path / "run", happened)
    assert "1 recorded loss is not a number." in page
    assert "nan" not in "".join(re.findall(r' (?:d|x|y|cx|cy)="[^"]*"', page))


def test_accuracy_no_better_than_the_largest_class_is_said(tmp_path: Path) -> None:
    happened = events()
    final = next(e for e in happened if e["event"] == "final")
    for entry in final["sites"].values():
        entry["correct"] = entry["total"] // 20
    page = page_of(tmp_path / "run", happened)
    assert "no better than always answering the largest class" in page
    assert 'class="to doubtful"' in page


@pytest.mark.parametrize("protect", ["adapter+data", "adapter", "insecure-none"])
def test_picture_follows_the_protection_level(tmp_path: Path, protect: str) -> None:
    job = resolved(protection__protect=protect)
    job["plan"]["prefix_blocks"] = 20 if protect == "adapter" else 0
    text = " ".join(Tags(page_of(tmp_path / "run", job=job)).text)
    said = {
        "adapter+data": "masked codes x + r",
        "adapter": "the owner’s own machine",
        "insecure-none": "codes, not masked",
    }
    for level, words in said.items():
        assert (words in text) == (level == protect)


def test_long_run_leaves_out_rounds_and_says_so(tmp_path: Path) -> None:
    happened = [e for e in events() if e["event"] != "step"]
    middle = next(i for i, e in enumerate(happened) if e["event"] == "round" and e["round"] == 4)
    more = [happened[middle] | {"round": r} for r in range(5, 401)]
    page = page_of(tmp_path / "run", [*happened[: middle + 1], *more, *happened[middle + 1 :]])
    assert "282 rounds left out" in page
    assert json.loads((tmp_path / "run/summary.json").read_text())["rounds"]["done"] == 400


def test_drawings_are_well_formed_xml(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) > 3
    for drawing in drawings:
        ET.fromstring(drawing)


def test_bars_are_as_long_as_their_figures(page: str) -> None:
    """Each strip's parts, in percent of it, next to the value that is shown."""
    strips = re.findall(
        r'<div class="strip".*?</div>\s*<div class="value">(.*?)</div>', page, re.DOTALL
    )
    assert len(strips) == 5 + 4 + len(sample.MEMORY)
    widths = {
        name: float(width)
        for width, name in re.findall(r'style="width:([\d.]+)%" title="([^:]*):', page)
    }
    assert widths["this run"] == pytest.approx(100 * 2702 / 3967, abs=0.01)
    assert widths["each site alone"] == pytest.approx(55.6, abs=0.01)
    memory = sample.MEMORY
    share = 100 * memory["server"] / memory["client:hospital-north"]
    assert widths["server enclave"] == pytest.approx(share, abs=0.01)
    parts = [width for name, width in widths.items() if name.startswith("mean of sites, ")]
    assert len(parts) == 7
    assert sum(parts) == pytest.approx(100, abs=0.1)
    assert max(widths.values()) <= 100


def test_nothing_is_wider_than_a_telephone(page: str) -> None:
    """No element has a fixed width: tables scroll in frames of their own, all else wraps."""
    main = page[page.index("<main>") :]
    assert not re.findall(r'(?: width="|style="[^"]*(?<!-)width:\s*)[0-9.]+(?:px|em|")', main)
    tables = main.count("<table")
    assert tables - main.count('<div class="scroll"><table') <= 1  # two columns of it: links' bytes


def test_every_colour_of_the_page_has_one_for_the_dark(page: str) -> None:
    sheet = page[page.index("<style>") : page.index("</style>")]
    light, dark = re.findall(r":root \{(.*?)\}", sheet, flags=re.DOTALL)[:2]
    names = set(re.findall(r"(--[\w-]+):", light))
    assert names == set(re.findall(r"(--[\w-]+):", dark))
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    local = set(re.findall(r"[;{{\" ](--[\w-]+):", page))
    assert used - names - local == {"--n", "--at", "--heads", "--cell"}  # set where heads are
    for palette in (light, dark):
        value = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6})", palette))
        for ground in ("--card", "--page", "--note-ground", "--bad-ground", "--enclave-ground"):
            for ink in ("--ink", "--soft"):
                assert contrast(value[ink], value[ground]) >= 4.5, (ink, ground)
        for ink, ground in (
            ("--outside-edge", "--note-ground"),
            ("--enclave-edge", "--enclave-ground"),
            ("--owner-edge", "--owner-ground"),
            ("--bad", "--bad-ground"),
            ("--bad", "--enclave-ground"),
            ("--bad", "--card"),
        ):
            assert contrast(value[ink], value[ground]) >= 4.5, (ink, ground)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_evidence_under_a_test_root_is_said_first(tmp_path: Path) -> None:
    happened = events()
    for event in happened:
        if event["event"] == "attested":
            event |= {"kind": "sev-snp", "confidential": False}
    page = page_of(tmp_path / "a", happened, resolved(protection__attestation="sev-snp"))
    main = page[page.index("<main>") :]
    banner = main.index("Evidence under a test root: not confidential.")
    assert banner < main.index("<section")
    assert main.count("under a test root, protects nothing") == 2 * len(sample.SITES)
    assert main.count(">test root<") == 2 * len(sample.SITES)
    assert "Simulated" not in main


def test_frozen_weights_are_what_each_site_stated(tmp_path: Path) -> None:
    happened = events()
    rounds = [e for e in happened if e["event"] == "round" and e["round"] > 0]
    for event in rounds:
        del event["frozen_unchanged"]
        for entry in event["sites"].values():
            entry["frozen_unchanged"] = True
    words = "unchanged: yes"
    text = " ".join(page_of(tmp_path / "a", happened).split())
    assert words in text
    rounds[1]["sites"]["clinic-coast"]["frozen_unchanged"] = False
    text = " ".join(page_of(tmp_path / "b", happened).split())
    assert words not in text
    assert "Frozen weights changed in some round." in text


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", baselines=sample.BASELINES)
    first = (write(run).read_bytes(), (run / "summary.json").read_bytes())
    assert (write(run).read_bytes(), (run / "summary.json").read_bytes()) == first
    assert not [p for p in run.iterdir() if p.name.endswith(".part")]


def test_folder_in_the_way(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(StorageError, match=r"report\.html"):
        write(run)


@pytest.mark.filterwarnings("ignore:.*click.*:DeprecationWarning")  # typer imports an old name
def test_command(tmp_path: Path) -> None:
    from typer import Typer
    from typer.testing import CliRunner

    from sealtune.cli.report import report as report_command

    app = Typer()
    app.command()(report_command)
    run = write_run(tmp_path / "run")
    result = CliRunner().invoke(app, [str(run)])
    assert result.exit_code == 0
    assert result.output.replace("\n", "").endswith("report.html")
    missing = CliRunner().invoke(app, [str(tmp_path / "none")])
    assert isinstance(missing.exception, StorageError)


def test_evidence_of_a_gpu_is_shown_with_what_it_does_not_prove(tmp_path: Path) -> None:
    happened = events()
    job = resolved(protection__attestation="sev-snp")
    assert "TDISP" not in page_of(tmp_path / "without", happened, job)
    for event in happened:
        if event["event"] == "attested" and event["who"] == "server":
            event |= {"kind": "sev-snp", "confidential": True, "gpus": 2}
    page = page_of(tmp_path / "with", happened, job)
    assert (
        "until\n  GPUs and enclaves are bound by TDISP, it can be relayed from another one" in page
    )
    assert "sev-snp, 2 GPUs" in page


def test_a_folder_in_which_nothing_has_run_gets_no_page(tmp_path: Path) -> None:
    """A party's folder holds a manifest, too; its events lie in the folder below."""
    run = write_run(tmp_path / "run", [])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(StorageError, match="nothing has run in"):
        write(run)
    assert not (run / "report.html").exists()
