"""A pad accelerator that listens on loopback, and an enclave's source of pads from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sealtune.channel.hpke import KeyPair
from sealtune.offload.pads import Pad
from sealtune.offload.second import SecondSource
from sealtune.pad_accelerator.server import Server
from tests.offload.layers import GROUPS, Setup

JOB = b"j" * 48
KEY = KeyPair.generate()


@contextmanager
def serving(setup: Setup, **changes: Any) -> Iterator[Server]:
    """A pad accelerator of site north."""
    terms: dict[str, Any] = {"key": KEY, "job_id": JOB, "sites": ("north",), **changes}
    server = Server(setup.engine, "tcp:127.0.0.1:0", **terms)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.close()


def connect(port: int, **changes: Any) -> SecondSource:
    """The source of site north's pads."""
    terms: dict[str, Any] = {"key": KEY.public_bytes, "job_id": JOB, "site": "north", **changes}
    return SecondSource.connect(f"tcp:127.0.0.1:{port}", GROUPS, **terms)


def bare(source: SecondSource, pad: Pad) -> torch.Tensor:
    """The product of a pad, without what lies on it."""
    blinded = pad.product()
    assert pad.blind is not None
    return blinded - source.streams.blind.mask(pad.blind.index, *blinded.shape)
