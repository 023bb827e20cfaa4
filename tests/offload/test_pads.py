"""One-time pads: uniform, used once, never repeated by another process or after a restart."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from sealtune.errors import PadReuseError
from sealtune.offload.pads import PadKey, PadStream


def test_an_index_is_never_handed_out_twice_by_many_threads() -> None:
    stream = PadStream("job/site")
    seen: list[int] = []

    def draw() -> None:
        for _ in range(500):
            seen.append(stream.reserve())

    threads = [threading.Thread(target=draw) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(set(seen)) == 4000


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20))
def test_masks_repeat_for_one_index_and_differ_for_all_others(rows: int, cols: int) -> None:
    stream = PadStream("job/site")
    first, second = stream.reserve(), stream.reserve()
    assert torch.equal(stream.mask(first, rows, cols), stream.mask(first, rows, cols))
    assert stream.mask(first, rows, cols).shape == (rows, cols)
    long_first = stream.mask(first, 100, 100).view(-1, 4)
    long_second = stream.mask(second, 100, 100).view(-1, 4)
    blocks = {tuple(b) for b in long_first.tolist()} & {tuple(b) for b in long_second.tolist()}
    assert not blocks  # no 128-bit block of key stream is shared


def test_a_restart_with_the_same_purpose_gives_another_stream() -> None:
    before, after = PadStream("job/site"), PadStream("job/site")
    assert not torch.equal(before.mask(0, 4, 4), after.mask(0, 4, 4))


@pytest.mark.parametrize("spend", [False, True])
def test_a_forked_process_has_no_pads(spend: bool) -> None:
    """Neither new ones nor those that its parent made ahead."""
    stream = PadStream("job/site")
    index = stream.reserve()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            stream.spend(index) if spend else stream.reserve()
            os.write(writer, b"drawn")
        except PadReuseError:
            os.write(writer, b"refused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 16) == b"refused"


def test_a_pad_is_used_once() -> None:
    stream = PadStream("job/site")
    first, second = PadKey(stream, stream.reserve()), PadKey(stream, stream.reserve())
    second.spend()
    first.spend()
    for key in (first, second, PadKey(stream, 1), PadKey(stream, 2)):
        with pytest.raises(PadReuseError, match="twice"):
            key.spend()


def test_of_many_threads_one_gets_to_use_a_pad() -> None:
    stream = PadStream("job/site")
    keys = [PadKey(stream, stream.reserve()) for _ in range(200)]
    used: list[int] = []

    def use_all() -> None:
        for key in keys:
            try:
                key.spend()
                used.append(key.index)
            except PadReuseError:
                pass

    threads = [threading.Thread(target=use_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(used) == list(range(200))


def test_bytes_are_uniform() -> None:
    stream = PadStream("job/site")
    mask = stream.mask(stream.reserve(), 1000, 256).view(torch.uint8)
    counts = torch.bincount(mask.flatten().to(torch.int64), minlength=256)
    assert chisquare(counts.numpy()).pvalue > 1e-6


def test_masks_of_growing_and_shrinking_sizes_begin_alike() -> None:
    stream = PadStream("job/site")
    for cols in (1, 3, 4, 7):
        longest = stream.mask(5, 9, cols)
        for rows in (1, 2, 9, 1):
            assert torch.equal(stream.mask(5, rows, cols), longest[:rows])


def test_two_masks_do_not_share_memory() -> None:
    stream = PadStream("job/site")
    first = stream.mask(0, 4, 4)
    kept = first.clone()
    stream.mask(1, 4, 4)
    assert torch.equal(first, kept)
