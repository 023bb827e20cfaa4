"""Shared memory by a file in a folder that both sides see: what the other side may do to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sealtune import frames
from sealtune.errors import AcceleratorLostError, FrameError, OffloadError
from sealtune.frames import Frame
from sealtune.offload.arena import MAX_ARENA, PROBE, Arena
from sealtune.offload.remote import RemoteAccelerator
from tests.offload.layers import product
from tests.offload.test_remote import GROUP, Scripted, codes

NAME = "sealtune-" + "0a" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shared"
    made.mkdir()
    return made


def file_of(folder: Path, size: int = 4096, name: str = NAME) -> Path:
    path = folder / name
    path.write_bytes(bytes(size))
    return path


def test_both_sides_see_the_same_memory(folder: Path) -> None:
    ours = Arena.create_in(folder, 5000)
    theirs = Arena.attach_in(folder, ours.name, 8192)
    ours.unlink(folder)
    assert not any(folder.iterdir())
    ours.codes(3, 4, 5)[0].fill_(7)
    theirs.codes(3, 4, 5)[1].fill_(9)
    assert theirs.codes(3, 4, 5)[0].eq(7).all()
    assert ours.codes(3, 4, 5)[1].eq(9).all()
    for arena in (ours, theirs):
        arena.check()
        arena.close()


@pytest.mark.parametrize(("setgid", "mode"), [(False, 0o600), (True, 0o660)])
def test_only_who_shares_the_folder_may_open_it(folder: Path, setgid: bool, mode: int) -> None:
    folder.chmod(0o2770 if setgid else 0o777)
    arena = Arena.create_in(folder, 1)
    assert stat.S_IMODE((folder / arena.name).stat().st_mode) == mode
    arena.close()


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../" + NAME, "/" + NAME, NAME + "/", NAME + "\0", NAME + "0", NAME[:-1],
        NAME.upper(), "x/../" + NAME, "sealtune-" + "../" * 10 + "ab", "/etc/passwd", NAME + "\n",
    ],
)  # fmt: skip
def test_no_other_name_is_opened(folder: Path, name: str) -> None:
    file_of(folder)
    file_of(folder.parent)
    with pytest.raises(FrameError, match="no name of shared memory"):
        Arena.attach_in(folder, name, 4096)


def link(path: Path) -> None:
    path.symlink_to(file_of(path.parent, name="victim"))


def hard_link(path: Path) -> None:
    path.hardlink_to(file_of(path.parent, name="victim"))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (link, "cannot be opened"),
        (hard_link, "not a plain file of one name"),
        (Path.mkdir, "cannot be opened"),
        (os.mkfifo, "not a plain file of one name"),
        (lambda path: None, "cannot be opened: No such file"),
    ],
)
def test_nothing_but_a_plain_file_is_written_to(
    folder: Path, made: Callable[[Path], None], said: str
) -> None:
    """A product must not land in a file elsewhere, whatever it is that has the name."""
    made(folder / NAME)
    with pytest.raises(FrameError, match=said):
        Arena.attach_in(folder, NAME, 4096)


@pytest.mark.parametrize("announced", [0, -4096, 4095, 4097, 8192, MAX_ARENA + 4096, 2**62])
def test_a_file_has_the_announced_size(folder: Path, announced: int) -> None:
    file_of(folder)
    with pytest.raises(FrameError, match="announced size"):
        Arena.attach_in(folder, NAME, announced)


def test_a_file_that_is_cut_short_is_noticed(folder: Path) -> None:
    arena = Arena.create_in(folder, 8192)
    os.truncate(folder / arena.name, 4096)
    with pytest.raises(FrameError, match="cut short"):
        arena.check()
    arena.close()


def test_a_full_folder_is_an_error_and_leaves_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Arena.create_in(folder, 8192)
    assert not any(folder.iterdir())


# --- a hostile accelerator -----------------------------------------------------------------------


class Near(Scripted):
    """Opens what it is told to in the folder; ``spoil`` comes between that and its answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spoil: Callable[[Arena, bytes], bytes] = lambda arena, seen: seen
        super().__init__()

    def attach(self, request: Frame) -> None:
        self.arena = Arena.attach_in(self.folder, request.meta["name"], request.meta["bytes"])
        seen = bytes(self.arena.probe(0))
        self.arena.probe(1)[:] = seen[::-1]
        told = self.spoil(self.arena, seen)
        self._there.sendall(frames.encode(Frame("ok", {"seen": told.hex()})))


@pytest.fixture
def near(folder: Path) -> Iterator[Near]:
    made = Near(folder)
    yield made
    made.here.close()


def remote(script: Near) -> RemoteAccelerator:
    return RemoteAccelerator(
        script.here, (GROUP,), shared_memory=False, untrusted_shm=script.folder
    )


def answers(script: Near, value: int = 5) -> None:
    def answer(request: Frame) -> bytes:
        assert script.arena is not None
        script.arena.codes(request.meta.get("rows", 0), 4, 5)[1].fill_(value)  # none in a bye
        return frames.encode(Frame("product"))

    script.answer = answer


def test_products_come_by_way_of_the_folder(near: Near) -> None:
    answers(near)
    here = remote(near)
    for rows in (2, 300, 1):
        assert product(here, "q", codes(rows, 4), backward=False).eq(5).all()
        assert not any(near.folder.iterdir())
    assert [r.kind for r in near.requests] == ["arena", "product", "arena", "product", "product"]
    assert not any(r.body for r in near.requests)
    here.close()


def unseen(arena: Arena, seen: bytes) -> bytes:
    return bytes(PROBE)


def unwritten(arena: Arena, seen: bytes) -> bytes:
    arena.probe(1)[:] = bytes(PROBE)
    return seen


@pytest.mark.parametrize("spoil", [unseen, unwritten])
def test_memory_that_is_not_the_same_is_refused_before_work(
    near: Near, spoil: Callable[[Arena, bytes], bytes]
) -> None:
    """A file that was exchanged for another, or a file system without a common cache."""
    near.spoil = spoil
    with pytest.raises(AcceleratorLostError, match="sees other shared memory"):
        remote(near).call("q", 2, backward=False)
    assert not any(near.folder.iterdir())


def test_a_file_that_was_exchanged_is_noticed(near: Near, monkeypatch: pytest.MonkeyPatch) -> None:
    attach = Near.attach

    def exchanged(self: Near, request: Frame) -> None:
        path = self.folder / request.meta["name"]
        path.unlink()
        path.write_bytes(bytes(request.meta["bytes"]))
        attach(self, request)

    monkeypatch.setattr(Near, "attach", exchanged)
    with pytest.raises(AcceleratorLostError, match="sees other shared memory"):
        remote(near).call("q", 2, backward=False)


@pytest.mark.parametrize("when", ["before", "while"])
def test_an_accelerator_that_cuts_the_file_short_is_lost(near: Near, when: str) -> None:
    answers(near)
    here = remote(near)
    call = here.call("q", 2, backward=False)
    call.codes.zero_()
    assert near.arena is not None
    if when == "before":
        os.truncate(near.arena.descriptor, 0)
    else:

        def cut(_request: Frame) -> bytes:
            assert near.arena is not None
            os.truncate(near.arena.descriptor, 4096)
            return frames.encode(Frame("product"))

        near.answer = cut

    def finish() -> None:
        call.submit()
        call.result()

    with pytest.raises(AcceleratorLostError, match="cut short"):
        finish()


def test_a_folder_that_is_not_there_is_an_error_of_its_own(near: Near, folder: Path) -> None:
    near.folder = folder / "none"
    with pytest.raises(OffloadError, match=r"no shared memory of 8192 bytes in .*none") as caught:
        remote(near).call("q", 2, backward=False)
    assert "untrusted_shm" in (caught.value.hint or "")
