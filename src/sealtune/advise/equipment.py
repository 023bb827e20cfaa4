"""What there is to compute with: stated in ``[equipment]``, or probed on this machine.

Trust domain: operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

import psutil
import torch

from sealtune.advise.costs import Work
from sealtune.job.spec import EquipmentSpec
from sealtune.offload import ring

Source = Literal["stated", "probed", "default"]
GIB = float(1 << 30)

_REPEATS = 5
_ROWS = 512  # tokens of a step, if nothing is known of it
_LARGEST = 4096  # width up to which a probed product is the model's own


@dataclass(frozen=True)
class Speeds:
    """What a machine does in a second.

    Attributes:
        flops: fp32 operations in matrix products.
        ring: int8 operations in ring products, digits and all.
        traffic: bytes moved by what is no matrix product.
    """

    flops: float
    ring: float
    traffic: float

    def seconds(self, work: Work) -> float:
        """How long some work takes."""
        return work.flops / self.flops + work.ring / self.ring + work.traffic / self.traffic


# Two cores of an EPYC with AVX-512 (Zen 4), for --no-probe; also the ratios by which one stated
# figure stands for the others: a ring product takes about as long as one in fp32.
REFERENCE = Speeds(flops=0.16e12, ring=0.66e12, traffic=45e9)
REFERENCE_MEMORY = 16.0  # GiB


def scaled(tflops: float) -> Speeds:
    """Speeds of a machine of which only its fp32 rate is known."""
    times = tflops * 1e12 / REFERENCE.flops
    return Speeds(REFERENCE.flops * times, REFERENCE.ring * times, REFERENCE.traffic * times)


@dataclass(frozen=True)
class Equipment:
    """Everything that the estimates ask for.

    Attributes:
        spec: the section as it stands in the job.
        client, owner, server, accelerator: speeds of the client TEE, the data owner's machine, the
            server TEE and the accelerator.
        client_gib, owner_gib, server_gib: memory.
        sources: key of the section -> where its value is from.
    """

    spec: EquipmentSpec
    client: Speeds
    owner: Speeds
    server: Speeds
    accelerator: Speeds
    client_gib: float
    owner_gib: float
    server_gib: float
    sources: dict[str, Source]

    def values(self) -> dict[str, float | bool | None]:
        """Key of the section -> its value, with what was probed filled in."""
        values = self.spec.model_dump()
        for name, gib in (
            ("client_tee_memory_gib", self.client_gib),
            ("owner_memory_gib", self.owner_gib),
            ("server_tee_memory_gib", self.server_gib),
        ):
            values[name] = round(gib, 2)
        for name, speeds in (
            ("client_tee_tflops", self.client),
            ("owner_tflops", self.owner),
            ("server_tee_tflops", self.server),
        ):
            values[name] = round(speeds.flops / 1e12, 4)
        values["accelerator_tops"] = round(self.accelerator.ring / 1e12, 4)
        return values


def take_stock(
    spec: EquipmentSpec, width: int, inner: int, rows: int = _ROWS, *, probing: bool = True
) -> Equipment:
    """Fill in what the job does not state.

    Args:
        spec: the job's section.
        width: of the model, D.
        inner: of its widest layer.
        rows: tokens of a step.
        probing: measure this machine; otherwise take the reference machine's figures.
    """
    named = spec.model_fields_set
    wanted = {"client_tee_tflops", "owner_tflops", "server_tee_tflops", "accelerator_tops"}
    open_speeds = any(getattr(spec, name) is None for name in wanted)
    here = probe(width, inner, rows) if probing and open_speeds else REFERENCE
    memory = psutil.virtual_memory().total / GIB if probing else REFERENCE_MEMORY
    other: Source = "probed" if probing else "default"
    sources: dict[str, Source] = {}
    for name in EquipmentSpec.model_fields:
        measured = name in wanted or name.endswith("_memory_gib")
        stated = name in named and getattr(spec, name) is not None
        sources[name] = "stated" if stated else other if measured else "default"

    def speeds(tflops: float | None) -> Speeds:
        return here if tflops is None else scaled(tflops)

    tops = spec.accelerator_tops
    return Equipment(
        spec=spec,
        client=speeds(spec.client_tee_tflops),
        owner=speeds(spec.owner_tflops),
        server=speeds(spec.server_tee_tflops),
        accelerator=here if tops is None else scaled(tops * REFERENCE.flops / REFERENCE.ring),
        client_gib=spec.client_tee_memory_gib or memory,
        owner_gib=spec.owner_memory_gib or memory,
        server_gib=spec.server_tee_memory_gib or memory,
        sources=sources,
    )


def probe(
    width: int,
    inner: int,
    rows: int = _ROWS,
    *,
    clock: Callable[[], float] = time.perf_counter,
    best: bool = True,
) -> Speeds:
    """Measure this machine: a second or two.

    Products are of the model's sizes, with one matrix after another as a model has them: a matrix
    that lies in the cache already, or many rows where a step has few, would look too fast.

    Args:
        width, inner: sizes of the products, as in the model; at most 4096.
        rows: tokens of a step; 64 to 2048.
        clock: ``time.process_time`` counts the cores' time and not the clock's.
        best: the best of some repeats, for what the machine sustains when it is left alone;
            otherwise their median.
    """
    width, inner = min(width, _LARGEST), min(inner, _LARGEST)
    rows = min(max(rows, 64), 2048)
    count = min(24, max(1, int(12e9 / (rows * width * inner))))  # a repeat: some tenths of a second
    weights = [torch.randn(inner, width) for _ in range(count)]
    int8 = [torch.randint(-127, 128, (inner, width), dtype=torch.int8).t() for _ in range(count)]
    x, hidden = torch.randn(rows, width), torch.randn(rows, inner)
    codes = torch.randint(-(2**31), 2**31 - 1, (rows, width), dtype=torch.int64).to(torch.int32)
    size = float(rows * width * inner)

    def rate(amount: float, work: Callable[[int], object]) -> float:
        seconds = []
        for repeat in range(_REPEATS + 1):
            begun = clock()
            for i in range(count):
                work(i)
            if repeat:  # the first one warms up
                seconds.append(max(clock() - begun, 1e-9))
        return amount * count / (min(seconds) if best else median(seconds))

    with torch.no_grad():
        return Speeds(
            flops=rate(2 * size, lambda i: torch.nn.functional.linear(x, weights[i])),
            ring=rate(8 * size, lambda i: ring.product(codes, int8[i])),
            # read, write, read twice, write
            traffic=rate(20.0 * rows * inner, lambda _: torch.nn.functional.silu(hidden) * hidden),
        )
