"""What there is to compute with: stated in ``[equipment]``, or probed on this machine.

Trust domain: operator.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from statistics import median
from typing import Literal

import psutil
import torch

from sealtune.advise.costs import Work
from sealtune.job.job_file import EquipmentSpec
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
    return Speeds(*(speed * times for speed in astuple(REFERENCE)))


@dataclass(frozen=True)
class Equipment:
    """Everything that the estimates ask for.

    Attributes:
        spec: the job's section, with what was probed filled in.
        sources: key of the section -> where its value is from.
        client, owner, server, accelerator: speeds of the client TEE, the data owner's machine, the
            server TEE and the accelerator.
    """

    spec: EquipmentSpec
    sources: dict[str, Source]
    client: Speeds
    owner: Speeds
    server: Speeds
    accelerator: Speeds


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
    stated = spec.model_dump(exclude_unset=True, exclude_none=True)
    asked = {"client_tee_tflops", "owner_tflops", "server_tee_tflops", "accelerator_tops"}
    here = probe(width, inner, rows) if probing and asked - stated.keys() else REFERENCE
    memory = psutil.virtual_memory().total / GIB if probing else REFERENCE_MEMORY
    measured = dict.fromkeys(sorted(asked), round(here.flops / 1e12, 4))
    measured["accelerator_tops"] = round(here.ring / 1e12, 4)
    for name in ("client_tee_memory_gib", "owner_memory_gib", "server_tee_memory_gib"):
        measured[name] = round(memory, 2)
    other: Source = "probed" if probing else "default"

    def speeds(name: str, unit: float = 1.0) -> Speeds:
        return scaled(stated[name] * unit) if name in stated else here

    return Equipment(
        spec=spec.model_copy(update={k: v for k, v in measured.items() if k not in stated}),
        sources={
            name: "stated" if name in stated else other if name in measured else "default"
            for name in EquipmentSpec.model_fields
        },
        client=speeds("client_tee_tflops"),
        owner=speeds("owner_tflops"),
        server=speeds("server_tee_tflops"),
        accelerator=speeds("accelerator_tops", REFERENCE.flops / REFERENCE.ring),
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
