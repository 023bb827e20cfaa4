"""What the user sees."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from sealtune.job.event_log import parse
from sealtune.job.events import Event
from sealtune.launch.display import Display
from sealtune.launch.progress import Progress


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "outcome": "ok",
        "reason": "",
        "examples": 10,
        "train_loss": 2.0,
        "correct": 30,
        "total": 100,
        "bytes_up": 2048,
        "bytes_down": 1024,
    } | changes


def make(event: str, **fields: Any) -> Event:
    read = parse(json.dumps({"event": event, **fields}))
    assert read is not None, fields
    return read


def feed(progress: Progress, role: str, event: str, **fields: Any) -> None:
    progress.apply(make(event, role=role, **{"time": 0.0, **fields}))


@pytest.fixture
def progress() -> Progress:
    return Progress.begin(("a", "b"), 4)


@pytest.fixture
def split() -> Progress:
    return Progress.begin(("a", "b"), 4, server_trains=True)


def test_a_site_that_refuses_its_server_is_told_of(progress: Progress) -> None:
    said = {"message": "it is at round 2, this site saw 5", "hint": "go on from the newest"}
    feed(progress, "client:a", "refused", **said)
    (notice,) = progress.notices
    assert notice == (
        "a refuses the server: it is at round 2, this site saw 5 (go on from the newest)"
    )


def test_a_site_whose_passes_are_slow_says_why_and_one_whose_are_not_says_nothing(
    progress: Progress,
) -> None:
    feed(progress, "client:a", "products", arithmetic="int8", native="avx512", slow=None)
    assert not progress.notices
    feed(progress, "client:b", "products", arithmetic="int8", native="off", slow="it was not built")
    assert progress.notices == ["b: masked products take many times as long: it was not built"]


def test_a_site_at_work(progress: Progress) -> None:
    site = progress.sites["a"]
    assert site.doing == "loading the model"
    feed(progress, "client:a", "ready")
    feed(progress, "flower", "exchange", sites=["a", "b"], bytes=10)
    assert site.doing == "a message is on its way"
    feed(progress, "client:a", "phase", round=1, phase="train", of=5)
    feed(progress, "client:a", "step", round=1, step=2, of=5, loss=1.25, tokens=9)
    assert (site.doing, site.step, site.of, site.loss) == ("training", 2, 5, 1.25)
    feed(progress, "client:a", "evaluated", round=1, correct=3, total=4, loss=1.0)
    assert (site.doing, site.accuracy) == ("waiting for the others", 0.75)


def test_a_round_is_summed_up(progress: Progress) -> None:
    sites = {"a": entry(), "b": entry(correct=70, train_loss=1.0, examples=30)}
    feed(progress, "server", "round", round=0, sites=sites, seconds=3.0)
    feed(progress, "server", "round", round=1, sites=sites, seconds=61.0)
    assert progress.notices == [
        "before training: 2 of 2 sites, loss 1.250, accuracy 50.0%, 3 s",
        "round 1 of 4: 2 of 2 sites, loss 1.250, accuracy 50.0%, 1 min 01 s",
    ]
    assert (progress.sites["a"].bytes_up, progress.sites["a"].bytes_down) == (4096, 2048)


def test_no_absence_goes_unsaid(progress: Progress) -> None:
    sites = {"a": entry(), "b": {"outcome": "late", "reason": "no answer within 5 s"}}
    feed(progress, "server", "round", round=2, sites=sites, seconds=5.0)
    assert progress.notices[0] == "b late: no answer within 5 s"
    assert progress.notices[1].startswith("round 2 of 4: 1 of 2 sites")
    assert progress.sites["b"].note == "late: no answer within 5 s"
    feed(progress, "flower", "transfer", site="b", outcome="absent", reason="offline")
    assert progress.notices[-1] == "b is absent: offline"


def test_an_outlier_is_named(progress: Progress) -> None:
    sites = {"a": entry(outlier=False), "b": entry(outlier=True)}
    feed(progress, "server", "round", round=2, sites=sites, seconds=5.0)
    assert progress.notices[0] == "b is an outlier: its update points elsewhere"
    assert not any(notice.startswith("a ") for notice in progress.notices)


def test_simulated_evidence_is_said_to_be_so(progress: Progress) -> None:
    fields = {"who": "server", "by": "a", "kind": "simulated", "confidential": False}
    feed(progress, "client:a", "attested", **fields)
    assert progress.notices == ["a accepted server's evidence (simulated, NOT confidential)"]


def test_nobody_tells_of_another_ones_verdict(progress: Progress) -> None:
    """A site's process cannot show the server as having accepted hardware."""
    fields = {"who": "a", "by": "server", "kind": "sev-snp", "confidential": True}
    feed(progress, "client:a", "attested", **fields)
    feed(progress, "server", "attested", **fields | {"by": "b"})
    assert not progress.notices


def test_time_left(progress: Progress) -> None:
    assert progress.seconds_left(0.0) is None
    for site in ("a", "b"):
        feed(progress, f"client:{site}", "phase", round=1, phase="train", of=10, time=100.0)
        feed(progress, f"client:{site}", "step", round=1, step=5, of=10, loss=1.0)
    assert progress.seconds_left(110.0) == pytest.approx(70.0)
    feed(progress, "server", "round", round=1, sites={}, seconds=20.0)
    assert progress.seconds_left(120.0) == pytest.approx(60.0)


def test_time_left_of_a_resumed_run() -> None:
    progress = Progress.begin(("a",), 10)
    feed(progress, "client:a", "phase", round=6, phase="train", of=10, time=0.0)
    feed(progress, "server", "round", round=6, sites={}, seconds=20.0)
    assert progress.seconds_left(20.0) == pytest.approx(80.0)


def uploads(progress: Progress, sites: tuple[str, ...] = ("a", "b")) -> None:
    """A site sends two chunks."""
    for chunk, sent in ((1, 2048), (2, 3072)):
        for site in sites:
            feed(progress, f"client:{site}", "phase", round=0, phase="upload", of=2)
            feed(progress, f"client:{site}", "uploaded", chunk=chunk, of=2, tokens=10)
            feed(progress, "server", "upload", site=site, chunk=chunk, of=2, bytes=sent)


def test_sites_of_a_split_job_upload(split: Progress) -> None:
    a, b = split.sites.values()
    feed(split, "client:a", "phase", round=0, phase="upload", of=2)
    assert (a.doing, a.step, a.of) == ("uploading", 0, 2)
    feed(split, "server", "upload", site="a", chunk=1, of=2, bytes=2048)
    feed(split, "client:a", "phase", round=0, phase="upload", of=2)
    assert (a.doing, a.step, a.of, a.bytes_up) == ("uploading", 1, 2, 2048)
    assert split.server.doing == "collecting samples"
    feed(split, "server", "upload", site="a", chunk=2, of=2, bytes=3072)
    assert (a.doing, a.of, b.doing) == ("all samples sent", 0, "loading the model")
    uploads(split, ("b",))
    assert split.server.doing == "loading the later blocks"
    heads = {"model.layers.4.self_attn": {"query": [0, 1], "dense": [3]}}
    feed(split, "server", "heads", heads=heads)
    assert split.notices == ["3 attention heads chosen to be tuned"]
    entries = {site: entry(bytes_up=3072, train_loss=None) for site in "ab"}
    feed(split, "server", "round", round=0, sites=entries, seconds=9.0)
    assert (a.bytes_up, b.bytes_up) == (3072, 3072)  # counted once
    assert split.notices[-1] == "before training: 2 of 2 sites, accuracy 30.0%, 9 s"
    feed(split, "server", "final", round=4, sites={"a": entry(bytes_up=100)})
    assert a.bytes_up == 3172


def train_split(progress: Progress) -> None:
    """Up to step 5 of 10 in round 2 of 4, at 30 s of training."""
    uploads(progress)
    entries = {"a": entry(train_loss=None), "b": entry(correct=50, train_loss=None)}
    feed(progress, "server", "round", round=0, sites=entries, seconds=3.0)
    for number, begun in ((1, 100.0), (2, 120.0)):
        feed(progress, "server", "phase", round=number, phase="train", of=10, time=begun)
        feed(progress, "server", "step", round=number, step=5, of=10, loss=1.25, tokens=9)
        if number == 1:
            feed(progress, "server", "phase", round=1, phase="evaluate", of=0)
            assert progress.seconds_left(120.0) == pytest.approx(60.0)
            feed(progress, "server", "round", round=1, sites=entries, seconds=20.0, train_loss=1.5)


def test_the_server_enclave_of_a_split_job_trains(split: Progress) -> None:
    train_split(split)
    top = split.server
    assert (top.doing, top.step, top.of, top.loss) == ("training", 5, 10, 1.25)
    assert top.accuracy == pytest.approx(0.4)
    assert [site.accuracy for site in split.sites.values()] == [0.3, 0.5]
    assert split.notices[-1] == "round 1 of 4: 2 of 2 sites, loss 1.500, accuracy 40.0%, 20 s"
    assert split.seconds_left(130.0) == pytest.approx(50.0)
    feed(split, "server", "exported", difference=0.0, agreement=1.0)
    assert split.notices[-1] == "adapter exported and read back, the same answers in 100.0%"


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_of_a_split_job(split: Progress, width: int) -> None:
    train_split(split)
    drawn = picture(Console(width=width), split)
    assert max(map(len, drawn.splitlines())) <= width
    row = next(line for line in drawn.splitlines() if line.startswith("server enclave"))
    for words in ("training", "5/10", "1.250", "40.0%"):
        assert words in row
    assert "round 2 of 4" in drawn
    assert "accelerator" not in drawn
    assert "last result" in drawn
    assert ("in / out" in drawn) == (width == 120)


def test_a_split_job_has_no_accelerator_from_the_start() -> None:
    drawn = picture(Console(width=100), Progress.begin(("a",), 2, server_trains=True))
    assert "accelerator" not in drawn
    assert "accelerator" in picture(Console(width=100), Progress.begin(("a",), 2))


def test_plain_lines_say_where_the_server_enclave_is(split: Progress) -> None:
    def line() -> str:
        out = io.StringIO()
        split.notices.clear()
        with Display(Console(file=out, width=200), split, "x"):
            pass
        return out.getvalue().split("  ")[-1].strip()

    feed(split, "client:a", "phase", round=0, phase="upload", of=2)
    feed(split, "server", "upload", site="a", chunk=1, of=2, bytes=9)
    assert line() == "server enclave: collecting samples | a: uploading 1/2 | b: loading the model"
    train_split(split)
    said = "round 2 of 4, server enclave: training 5/10, loss 1.250, accuracy 40.0%"
    assert line().startswith(said)
    feed(split, "server", "round", round=4, sites={}, seconds=1.0)
    feed(split, "server", "final", round=4, sites={})
    assert line().startswith("server enclave: finishing | a: all samples sent")


def test_a_signature_is_not_called_evidence(progress: Progress) -> None:
    fields = {"who": "a", "by": "server", "kind": "participant", "confidential": False}
    feed(progress, "server", "attested", **fields)
    assert progress.notices == ["server knows a by its participant key"]


@pytest.mark.parametrize(
    "event",
    [
        make("step", role="client:zz", round=1, step=1, of=2),
        make("phase", role="client:a", round=1, phase="unheard of"),
        make("round", role="server", round=9, sites={"zz": {}, "a": {}}),
        make("round", role="server", round=1, train_loss=None),
        make("upload", role="server", site="zz", chunk=1, of=1, bytes=1),
        make("heads", role="server", heads={"a": {}}),
        make("exported", role="server"),
        make("transfer", role="flower", site="zz", outcome="absent"),
        make("exchange", role="flower", sites=["zz"], bytes=1),
        make("start", role="nobody"),
    ],
)
def test_strange_events_do_no_harm(progress: Progress, event: Event) -> None:
    progress.apply(event)
    Display(Console(file=io.StringIO()), progress, "x").update()


def picture(console: Console, progress: Progress) -> str:
    with console.capture() as capture:
        console.print(Display(console, progress, "icd10"))
    return capture.get()


def test_the_picture_fits_eighty_columns(progress: Progress) -> None:
    test_a_round_is_summed_up(progress)
    feed(progress, "client:a", "phase", round=2, phase="train", of=10, time=1.0)
    feed(progress, "client:a", "step", round=2, step=3, of=10, loss=1.5)
    feed(progress, "accelerator", "offload", calls=1234, bytes_in=2**30, bytes_out=2**20)
    for width, more in ((80, ""), (120, "2.00 KiB / 4.00 KiB")):
        drawn = picture(Console(width=width), progress)
        assert max(map(len, drawn.splitlines())) <= width
        for words in ("icd10", "round 2 of 4", "training", "3/10", "1.500", "1,234 calls", more):
            assert words in drawn


def test_a_pad_accelerator_has_a_line_where_there_is_one() -> None:
    assert "pad accelerator" not in picture(Console(width=100), Progress.begin(("a",), 2))
    progress = Progress.begin(("a",), 2, pads="loading")
    feed(progress, "pad-accelerator", "offload", calls=7, bytes_in=0, bytes_out=2**20)
    drawn = picture(Console(width=100), progress)
    (line,) = (line for line in drawn.splitlines() if "pad accelerator" in line)
    assert "7 calls, 1.00 MiB of codes" in line


def test_markup_in_names_and_reasons_is_text(progress: Progress) -> None:
    sites = {"a": entry(outcome="failed", reason="[red]boo[/red]"), "b": entry()}
    feed(progress, "server", "round", round=1, sites=sites, seconds=1.0)
    out = io.StringIO()
    with Display(Console(file=out, width=200), progress, "x"):
        pass
    assert "a failed: [red]boo[/red]" in out.getvalue()
    assert "[red]boo[/red]" in picture(Console(width=200), progress)


def test_plain_lines_without_a_terminal(progress: Progress) -> None:
    out = io.StringIO()
    with Display(Console(file=out), progress, "x") as display:
        progress.notices.append("round 1 of 4")
        display.update()
        display.update()
    lines = out.getvalue().splitlines()
    assert sum("round 1 of 4" in line for line in lines) == 1
    assert "\x1b" not in out.getvalue()
