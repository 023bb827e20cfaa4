"""What is read from the other side, at the edge of each of its checks."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

import pytest
import torch

from sealtune import frames
from sealtune.errors import FrameError
from sealtune.offload import wire
from sealtune.offload.arena import Arena


def memory(size: int) -> int:
    """Descriptor of shared memory of that size, which cannot shrink; no page of it is touched."""
    descriptor = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor


@pytest.mark.parametrize(
    ("rows", "cols", "size"),
    [
        (2, 3, 23), (2, 3, 25), (2, 3, 0), (2, 3, 6), (2, 3, 20), (2, 3, 28), (2, 3, 48),
        (0, 3, 4), (3, 0, 1), (0, 0, 1),
        (-1, -6, 24), (-2, 3, 0), (-1, 0, 0), (0, -1, 0), (2, -3, 24), (-2, 3, 24),
    ],
)  # fmt: skip
def test_a_body_of_another_length_is_refused(rows: int, cols: int, size: int) -> None:
    with pytest.raises(FrameError, match=f"does not hold {rows} x {cols} codes"):
        wire.check_body(size, rows, cols)


def test_a_body_ends_at_its_limit() -> None:
    frames.parse_header(frames.HEADER.pack(b"STF1", 4, 2**31, 0), max_body=wire.MAX_BODY)
    with pytest.raises(FrameError, match="limit 2147483648"):
        frames.parse_header(frames.HEADER.pack(b"STF1", 4, 2**31 + 1, 0), max_body=wire.MAX_BODY)


@pytest.mark.parametrize(("rows", "cols"), [(2, 3), (1, 1), (0, 3), (3, 0), (0, 0)])
def test_a_body_of_the_right_length_is_taken(rows: int, cols: int) -> None:
    wire.check_body(rows * cols * 4, rows, cols)


def test_a_buffer_is_kept_and_grows() -> None:
    buffer = wire.Buffer()
    first = buffer.rows(4, 6)
    assert (first.shape, first.dtype) == ((4, 6), torch.int32)
    assert buffer.rows(3, 8).data_ptr() == first.data_ptr()
    assert buffer.rows(0, 5).shape == (0, 5)
    assert buffer.rows(5, 5).shape == (5, 5)


@pytest.mark.parametrize(("rows", "cols"), [(2, 3), (1, 1), (0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_body_of_the_right_length_is_read(rows: int, cols: int, kind: type) -> None:
    values = list(range(-2, rows * cols - 2))
    found = wire.codes_from_bytes(kind(struct.pack(f"<{rows * cols}i", *values)), rows, cols)
    assert found.dtype == torch.int32
    assert found.shape == (rows, cols)
    assert found.flatten().tolist() == values


def test_codes_from_a_body_are_a_private_copy() -> None:
    body = bytearray(struct.pack("<2i", 1, 2))
    found = wire.codes_from_bytes(body, 1, 2)
    body[:] = bytes(8)
    assert found.tolist() == [[1, 2]]


@pytest.mark.parametrize("count", [0, 2])
def test_one_descriptor_is_expected(count: int) -> None:
    here, there = socket.socketpair()
    descriptors = [memory(4096) for _ in range(count)]
    socket.send_fds(here, [b"\0"], descriptors)
    if count == 0:
        with pytest.raises(FrameError, match="expected one file descriptor"):
            wire.receive_descriptor(there)
    else:  # the system hands over no more than was asked for
        os.close(wire.receive_descriptor(there))
    for descriptor in descriptors:
        os.close(descriptor)
    here.close()
    there.close()


def test_a_descriptor_takes_no_byte_of_what_follows() -> None:
    here, there = socket.socketpair()
    descriptor = memory(4096)
    wire.send_descriptor(here, descriptor)
    here.sendall(b"next")
    os.close(wire.receive_descriptor(there))
    assert there.recv(10) == b"next"
    os.close(descriptor)
    here.close()
    there.close()


@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [
        (-1, -1, 1), (-1, 5, 5), (5, -1, 1), (5, 1, -1), (-1, 0, 0), (0, -1, 0), (0, 0, -1),
        (1, 1025, 1), (1025, 1, 1), (32, 33, 1), (1, 1, 1025), (2**40, 2**40, 1), (1, 1024, 1025),
    ],
)  # fmt: skip
def test_codes_beyond_shared_memory_are_refused(rows: int, inner: int, outer: int) -> None:
    arena = Arena.create(8192)
    with pytest.raises(FrameError, match="do not fit"):
        arena.codes(rows, inner, outer)
    arena.close()


@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [(32, 32, 32), (1, 1024, 1024), (0, 7, 3), (7, 0, 7), (1, 1, 1), (3, 5, 341)],
)
def test_codes_and_product_lie_in_shared_memory_side_by_side(
    rows: int, inner: int, outer: int
) -> None:
    arena = Arena.create(8192)
    codes, product = arena.codes(rows, inner, outer)
    codes.fill_(7)
    product.fill_(9)
    assert codes.eq(7).all()
    assert (codes.shape, product.shape) == ((rows, inner), (rows, outer))
    assert codes.data_ptr() % 64 == product.data_ptr() % 64 == 0
    whole = arena.bytes.view(torch.int32)
    assert (int(whole.eq(7).sum()), int(whole.eq(9).sum())) == (rows * inner, rows * outer)
    arena.close()


@pytest.mark.parametrize(("asked", "size"), [(1, 4096), (4096, 4096), (4097, 8192)])
def test_shared_memory_comes_in_whole_pages_and_cannot_change_its_size(
    asked: int, size: int
) -> None:
    arena = Arena.create(asked)
    assert arena.size == os.fstat(arena.descriptor).st_size == size
    for other in (0, size - 1, size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.descriptor, other)
    arena.close()


@pytest.mark.parametrize(
    ("size", "announced"),
    [(0, 0), (4096, 0), (4096, -4096), (4096, 4095), (4096, 4097), (2**32 + 4096, 2**32 + 4096)],
)
def test_shared_memory_of_a_wrong_or_absurd_size_is_refused(size: int, announced: int) -> None:
    descriptor = memory(size)
    with pytest.raises(FrameError, match="announced size"):
        Arena.attach(descriptor, announced)
    os.close(descriptor)


@pytest.mark.parametrize("size", [1, 4096, 2**32])
def test_shared_memory_of_the_announced_size_is_taken(size: int) -> None:
    arena = Arena.attach(memory(size), size)
    assert arena.size == size
    arena.close()


def test_an_ordinary_file_is_no_shared_memory(tmp_path: object) -> None:
    descriptor = os.open(f"{tmp_path}/file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 4096)
    with pytest.raises(FrameError, match="cut short"):
        Arena.attach(descriptor, 4096)
    os.close(descriptor)


def test_closing_shared_memory_lets_go_of_its_descriptor() -> None:
    arena = Arena.create(4096)
    arena.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(arena.descriptor)
