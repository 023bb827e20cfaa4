"""Ring products on a CUDA device, against 64-bit integers on the CPU."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sealtune.accelerator.devices import Cuda
from sealtune.accelerator.engine import Engine
from sealtune.accelerator.exchange import Shared
from sealtune.accelerator.lanes import Queued
from sealtune.accelerator.server import Server
from sealtune.offload import kernels, ring
from sealtune.offload.arena import Arena, needed
from sealtune.offload.remote import RemoteAccelerator
from tests.accelerator.test_lanes import Piecewise
from tests.offload.layers import GROUPS, INNER, make_setup, product

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

CUDA = torch.device("cuda")
SIZES = (1, 2, 7, 15, 16, 17, 31, 33, 64, 100, 576, 577, 1536)


def test_this_device_multiplies_bytes_exactly() -> None:
    assert kernels.arithmetic(CUDA) == "int8"


def test_two_hundred_shapes_in_both_layouts_are_exact() -> None:
    source = random.Random(1)
    wrong = []
    for _ in range(200):
        rows, inner, cols = (source.choice(SIZES) for _ in range(3))
        codes, weight = _codes(rows, inner), _weight(inner, cols)
        expected = _mod_2_32(codes, weight)
        for layout in (weight, weight.t().contiguous().t()):
            result = ring.product(codes.to(CUDA), layout.to(CUDA)).cpu()
            if not torch.equal(result, expected):
                wrong.append((rows, inner, cols, layout.is_contiguous()))
    assert wrong == []


@pytest.mark.parametrize("chunk", [0, 1 << 12, 1 << 16])
def test_products_through_lanes_are_exact_pinned_or_not(chunk: int) -> None:
    """Many shapes in the same buffers: shared memory, pinned or not, and sockets."""
    lane, source = Queued(Cuda(), chunk=chunk), random.Random(2)
    arena = Arena.create(needed(600, 1536, 1536))
    assert lane.pin(arena.bytes)
    wrong = []
    for turn in range(60):
        rows, inner, cols = source.choice((*SIZES, 600)), source.choice(SIZES), source.choice(SIZES)
        sent, weight = _codes(rows, inner), _weight(cols, inner).t()
        codes, product = arena.codes(rows, inner, cols)
        codes.copy_(sent)
        product.fill_(-7)
        there = weight.to(CUDA)
        if turn % 3 == 2:
            exchange = Piecewise(sent)
            lane.multiply(there, rows, exchange)
            product.copy_(torch.cat(exchange.taken))
        else:
            lane.multiply(there, rows, Shared(codes, product, pinned=turn % 3 == 0))
        if not torch.equal(product, _mod_2_32(sent, weight)):
            wrong.append((turn, rows, inner, cols))
    assert wrong == []
    lane.unpin(arena.bytes)
    arena.close()


def test_memory_is_pinned_once_and_let_go(tmp_path: Path) -> None:
    device = Cuda()
    assert device.pinned(5).is_pinned()
    for made in (Arena.create(1 << 20), Arena.create_in(Path("/dev/shm"), 1 << 20)):
        assert device.pin(made.bytes)
        assert made.bytes.is_pinned()
        assert not device.pin(made.bytes)  # it is already, and stays so
        device.unpin(made.bytes)
        assert not made.bytes.is_pinned()
        made.close()
        if made.name:
            made.unlink(Path("/dev/shm"))


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_two_sites_at_once_get_their_own_products(tmp_path: Path, scheme: str) -> None:
    setup = make_setup(tmp_path)
    groups = [group.model_dump() for group in GROUPS]
    engine = Engine(Path(setup.plan.backbone.path), groups, device="cuda")
    near = scheme == "unix"
    server = Server(engine, f"unix:{tmp_path}/a.sock" if near else "tcp:127.0.0.1:0")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"unix:{tmp_path}/a.sock" if near else f"tcp:127.0.0.1:{server.port}"

    def work(seed: int) -> list[int]:
        remote, wrong = RemoteAccelerator.connect(address, GROUPS), []
        generator = torch.Generator().manual_seed(seed)
        for rows in (1, 17, 4000, 33, 2000, 5) * 5:
            sent = torch.randint(-(2**31), 2**31, (rows, INNER), generator=generator)
            found = product(remote, "q", sent.to(torch.int32), backward=False)
            if not torch.equal(found, setup.engine.product("q", sent.int(), backward=False)):
                wrong.append(rows)
        remote.close()
        return wrong

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == [[], []]
    server.close()


def _codes(rows: int, cols: int) -> Tensor:
    """int32 [rows, cols], the extremes among them."""
    codes = torch.randint(-(2**31), 2**31, (rows, cols)).to(torch.int32)
    codes.view(-1)[0] = -(2**31)
    codes.view(-1)[-1] = 2**31 - 1
    return codes


def _weight(rows: int, cols: int) -> Tensor:
    """int8 [rows, cols]."""
    return torch.randint(-128, 128, (rows, cols)).to(torch.int8)


def _mod_2_32(left: Tensor, right: Tensor) -> Tensor:
    product = left.numpy().astype(np.int64) @ right.numpy().astype(np.int64)  # wraps mod 2^64
    return torch.from_numpy(product.astype(np.int32))
