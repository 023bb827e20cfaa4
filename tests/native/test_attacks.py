"""An accelerator that lies in what it returns, or changes it while it is read."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sealtune.errors import IntegrityError
from sealtune.native import library
from sealtune.offload import passes
from sealtune.offload.codes import RESULT_LIMIT
from sealtune.offload.prime_check import PRIME, sums

each = pytest.mark.parametrize("name", library.available())
errors = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from((1, -1, 2**16, 2**30, -(2**30), 2**31 - 2, 2**31 - 1, -(2**31))),
).filter(bool)


def answer(rows: int, cols: int, seed: int = 0) -> tuple[Tensor, Tensor, passes.Encoded]:
    """An honest answer without mask, its check vectors, and what the enclave keeps."""
    made = torch.Generator().manual_seed(seed)
    y = torch.randint(1 - RESULT_LIMIT, RESULT_LIMIT, (rows, cols), generator=made)
    y = y.to(torch.int32)
    check = torch.randint(1, PRIME, (2, cols), generator=made).to(torch.uint32)
    return y, check, passes.Encoded(torch.ones(rows), sums(y, check))


def take(y: Tensor, check: Tensor, encoded: passes.Encoded) -> Tensor:
    return passes.unmask_decode(y, None, None, encoded, None, check, "q forward")


@each
@settings(max_examples=100, deadline=None)
@given(errors, st.integers(0, 3 * 600 - 1), st.sampled_from((1, 3, 64, 67, 600)))
def test_no_single_changed_entry_is_accepted(name: str, error: int, place: int, cols: int) -> None:
    y, check, encoded = answer(3, cols)
    place %= y.numel()
    true = int(y.view(-1)[place])
    lie = (true + error + 2**31) % 2**32 - 2**31
    y.view(-1)[place] = lie
    what = "is wrong" if abs(lie) < RESULT_LIMIT else "is out of range"
    with library.using(name), pytest.raises(IntegrityError, match=f"q forward {what}"):
        take(y, check, encoded)


@each
def test_both_ends_of_the_range(name: str) -> None:
    y = torch.tensor([[RESULT_LIMIT - 1, 1 - RESULT_LIMIT, 0]], dtype=torch.int32)
    encoded = passes.Encoded(torch.ones(1), torch.zeros((1, 0), dtype=torch.int64))
    with library.using(name):
        decoded = passes.unmask_decode(y, None, None, encoded, None, None, "here")
        assert decoded.tolist() == [[float(2**30), -float(2**30), 0.0]]
        for place, beyond in ((0, RESULT_LIMIT), (1, -RESULT_LIMIT), (2, -(2**31)), (2, 2**31 - 1)):
            lie = y.clone()
            lie[0, place] = beyond
            with pytest.raises(IntegrityError, match="out of range"):
                passes.unmask_decode(lie, None, None, encoded, None, None, "here")


# changes the first entry to and fro, until it has no parent
FLICKER = """
import mmap, os, sys
descriptor, honest, lie, parent = map(int, sys.argv[1:])
entry = memoryview(mmap.mmap(descriptor, 0)).cast("i")
print(flush=True)
while os.getppid() == parent:
    for _ in range(1000):
        entry[0] = lie
        entry[0] = honest
"""


@contextlib.contextmanager
def flickering(descriptor: int, honest: int, lie: int) -> Iterator[None]:
    """Another process changes the memory meanwhile."""
    words = (sys.executable, "-c", FLICKER, *map(str, (descriptor, honest, lie, os.getpid())))
    with subprocess.Popen(words, stdout=subprocess.PIPE, pass_fds=(descriptor,)) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield
        finally:
            child.kill()


@each
@pytest.mark.parametrize("masked", [False, True])
def test_an_answer_that_changes_while_it_is_read_is_refused_or_taken_as_it_was(
    name: str, masked: bool
) -> None:
    """The other side owns the memory. What passes the check is what is decoded: one read."""
    true, check, encoded = answer(1, 512)
    product = torch.full_like(true, 5) if masked else None
    descriptor = os.memfd_create("answer")
    os.ftruncate(descriptor, true.nbytes)
    memory = mmap.mmap(descriptor, true.nbytes)
    shared = torch.frombuffer(memory, dtype=torch.int32).view(true.shape)
    shared.copy_(true if product is None else true + product)
    first = int(shared[0, 0])
    with library.using(name), flickering(descriptor, first, first ^ 1 << 20):
        for _ in range(1000):
            try:
                found = passes.unmask_decode(
                    shared, product, None, encoded, None, check, "q forward"
                )
            except IntegrityError:
                continue
            assert torch.equal(found, true.to(torch.float32))
    os.close(descriptor)
