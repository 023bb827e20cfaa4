"""The adapter on its way to a site, in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import AdapterMismatchError, FrameError, ModelError
from sealtune.frames import Frame
from sealtune.methods.split import release as module
from sealtune.methods.split.release import release_parts
from sealtune.owner.received import Received, own_copy
from tests.enclave.split_flow import SplitFederation, make_split, make_split_job

FILES = {"a": b"x" * 25, "b": b"", "c": b"yz"}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 10)


@pytest.mark.usefixtures("small_parts")
def test_parts_come_together() -> None:
    parts = release_parts(FILES, 3)
    assert [len(part.body) for part in parts] == [10, 10, 7]
    received = Received()
    assert [received.take(part) for part in parts] == [None, None, FILES]
    assert received.take(parts[-1]) == FILES  # a repeat is answered alike


def test_nothing_is_released() -> None:
    (part,) = release_parts({}, 1)
    received = Received()
    assert received.take(part) == {}
    assert received.have == 1


@pytest.mark.usefixtures("small_parts")
def test_a_part_out_of_order_changes_nothing() -> None:
    parts = release_parts(FILES, 3)
    received = Received()
    assert received.take(parts[1]) is None
    assert received.have == 0
    received.take(parts[0])
    received.take(parts[0])
    assert received.have == 1


@pytest.mark.parametrize(
    "meta",
    [
        {"part": 1, "of": 1, "files": {}},
        {"part": 0, "of": 0, "files": {}},
        {"part": -1, "of": 1, "files": {}},
        {"part": True, "of": 1, "files": {}},
        {"part": 0, "of": 1 << 40, "files": {}},
        {"part": 0, "of": 1},
        {"part": 0, "of": 1, "files": {"a": -1}},
        {"part": 0, "of": 1, "files": {"a": 4}},
        {"part": 0, "of": 1, "files": ["a"]},
    ],
)
def test_nonsense_is_refused(meta: dict[str, object]) -> None:
    with pytest.raises(FrameError):
        Received().take(Frame("finish", meta, b"xyz"))


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(("part", "of", "files", "round")),
        st.integers(-2, 4) | st.booleans() | st.dictionaries(st.text(), st.integers(-3, 9)),
    ),
    st.binary(max_size=20),
)
def test_any_message_gives_files_or_a_frame_error(meta: dict[str, object], body: bytes) -> None:
    try:
        files = Received().take(Frame("finish", meta, body))
    except FrameError:
        return
    assert files is None or sum(map(len, files.values())) == len(body)


@pytest.mark.usefixtures("small_parts")
def test_a_site_that_restarts_gets_it_from_the_start(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 8_000)
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    server = federation.server()
    asked = 0
    while (outgoing := server.next()) is not None:
        for site, message in outgoing.items():
            server.reply(site, federation.sites[site].deliver(message))
            if site == "south" and federation.of("phase", "client:south"):
                asked += federation.of("phase", "client:south")[-1]["phase"] == "wait"
        if asked == 2:
            federation.start_site("south")
            server._links["south"].drop()
            asked += 1
    assert asked > 4
    folders = [federation.run_dir / "sites" / site / "adapter" for site in ("north", "south")]
    first, second = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
    assert first == second
    assert "spf_model.safetensors" in first


def say_of_the_end(federation: SplitFederation, have: Callable[[], int]) -> None:
    """Make ``south`` lie about how many parts of the end it has."""
    worker = federation.sites["south"]._worker
    honest = worker.answer

    def answer(question: Frame) -> Frame:
        if question.kind != "finish":
            return honest(question)
        return Frame("received", {"round": 2, "have": have()})

    worker.answer = answer  # type: ignore[method-assign]


@pytest.mark.usefixtures("small_parts")
def test_a_site_that_never_takes_a_part_is_given_up(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 20_000)
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    say_of_the_end(federation, lambda: 0)
    federation.run(federation.server())
    final = federation.of("final")[0]["sites"]
    assert "again and again" in final["south"]["reason"]
    assert final["north"]["outcome"] == "ok"


@pytest.mark.usefixtures("small_parts")
def test_a_site_that_goes_back_and_forth_is_given_up(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 8_000)
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    asked = [0]

    def have() -> int:
        asked[0] += 1
        return asked[0] % 2

    say_of_the_end(federation, have)
    federation.run(federation.server())
    assert asked[0] < 8
    assert "again and again" in federation.of("final")[0]["sites"]["south"]["reason"]


def test_an_adapter_of_another_job_is_not_written(llama: Path, tmp_path: Path) -> None:
    federation = make_split(make_split_job(tmp_path, llama), tmp_path / "run")
    federation.run(federation.server())
    folder = federation.run_dir / "sites" / "north" / "adapter"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert own_copy(files, federation.resolved) == files
    assert json.loads(files["sealtune.json"])["base_model"] == str(llama)
    content = json.loads(files["sealtune.json"]) | {"job_id": "00" * 48}
    other = files | {"sealtune.json": json.dumps(content).encode()}
    with pytest.raises(AdapterMismatchError, match="of another job"):
        own_copy(other, federation.resolved)
    with pytest.raises(ModelError, match="damaged"):
        own_copy(files | {"sealtune.json": b"{"}, federation.resolved)
