"""An enclave and an accelerator that keeps all it sees, in one process.

The enclave's side is the product's own: plan, masked layers, pads, encoding and checks.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sealtune.accelerator.engine import Engine
from sealtune.accelerator.prefix import PlainBlocks
from sealtune.audit.miniature import Miniature
from sealtune.channel.hpke import KeyPair
from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job
from sealtune.offload.enclave_pads import EnclavePads
from sealtune.offload.frozen import load_frozen
from sealtune.offload.in_process import InProcess
from sealtune.offload.pad_wire import Streams
from sealtune.offload.pads import PadSource, PadStream
from sealtune.offload.second import SecondSource
from sealtune.offload.session import OffloadSession
from sealtune.pad_accelerator.server import Server as PadServer
from sealtune.plan.planner import make_plan


@dataclass(frozen=True)
class Seen:
    """One call: ``codes`` int32 [T, K] of a group, or [T, N] of its backward product."""

    group: str
    backward: bool
    codes: Tensor


class Watcher:
    """``Multiplier`` that computes honestly and keeps what it is given.

    Args:
        engine: what computes.
        groups: whose calls are kept; None: all.
    """

    def __init__(self, engine: Engine, groups: Collection[str] | None = None) -> None:
        self._engine, self._groups = engine, groups
        self.seen: list[Seen] = []

    def product(self, group: str, codes: Tensor, *, backward: bool) -> Tensor:
        """See ``Multiplier.product``."""
        if self._groups is None or group in self._groups:
            self.seen.append(Seen(group, backward, codes.clone()))
        return self._engine.product(group, codes, backward=backward)

    def prefix(self, input_ids: Tensor) -> Tensor:
        """See ``Multiplier.prefix``."""
        return self._engine.prefix(input_ids)

    def close(self) -> None:
        """See ``Multiplier.close``."""

    def codes(self, group: str, *, backward: bool = False) -> Tensor:
        """All codes of one group in their order, one below the other."""
        kept = [s.codes for s in self.seen if (s.group, s.backward) == (group, backward)]
        return torch.cat(kept)


@dataclass(frozen=True)
class Watched:
    """A tuned model whose frozen layers are computed under observation.

    Attributes:
        model: as in the enclave.
        plan: what is computed where.
        watcher: the accelerator.
        streams: of a pad accelerator that shares what it knows; empty: there is none.
    """

    model: Any
    plan: SlicePlan
    watcher: Watcher
    streams: list[Streams] = field(default_factory=list)


class _Sharing(PadServer):
    """A pad accelerator that keeps the key streams of the seeds that it gets."""

    def __init__(self, kept: list[Streams], *args: Any, **terms: Any) -> None:
        super().__init__(*args, **terms)
        self._kept = kept

    def _greet(self, sock: Any) -> Streams:
        self._kept.append(streams := super()._greet(sock))
        return streams


def without_masks(job: Job) -> Job:
    """The job whose accelerator gets bare codes."""
    protection = job.protection.model_copy(update={"protect": "insecure-none", "pads": "enclave"})
    return job.model_copy(update={"protection": protection})


@contextmanager
def watched(
    small: Miniature,
    job_id: str,
    *,
    masked: bool = True,
    groups: Collection[str] | None = None,
    kept_secret: bytes | None = None,
) -> Iterator[Watched]:
    """What a site's enclave and its accelerator do, with the job's own protection.

    Args:
        job_id: of the run, in hex.
        masked: False: ``insecure-none``.
        groups: see ``Watcher``; default: all.
        kept_secret: pads follow from this, as of an enclave that kept their key on its disk.
    """
    job = small.job if masked else without_masks(small.job)
    plan = make_plan(job, len(small.labels) or None)
    path, site = Path(plan.backbone.path), job.sites.names[0]
    given = [group.model_dump() for group in plan.groups]
    prefix = None
    if plan.prefix_blocks:
        prefix = PlainBlocks(job.model.path, job.model.revision, plan.prefix_blocks, path)
    watcher, streams = Watcher(Engine(path, given, prefix=prefix), groups), list[Streams]()
    bits, owner = job.protection.integrity_bits, f"{job_id}/{site}"
    with ExitStack() as opened:
        pads: PadSource | None = None
        if kept_secret is not None:
            frozen = load_frozen(plan.backbone, plan.groups, integrity_bits=bits, keep_weights=True)
            pads = EnclavePads(PadStream(owner, kept_secret), frozen, 0, {})
        elif masked and job.protection.pads == "second-accelerator":
            engine = Engine(path, given)
            pads = opened.enter_context(_second(engine, plan, bytes.fromhex(job_id), site, streams))
        session = opened.enter_context(
            OffloadSession(
                InProcess(watcher, plan.groups), plan, integrity_bits=bits, owner=owner, pads=pads
            )
        )
        model = small.tuned()
        session.install(model)
        yield Watched(model, plan, watcher, streams)


@contextmanager
def _second(
    engine: Engine, plan: SlicePlan, job_id: bytes, site: str, kept: list[Streams]
) -> Iterator[SecondSource]:
    """Pads of a pad accelerator that listens on loopback."""
    key = KeyPair.generate()
    terms: dict[str, Any] = {"job_id": job_id, "site": site}
    server = _Sharing(kept, engine, "tcp:127.0.0.1:0", key=key, job_id=job_id, sites=(site,))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"tcp:127.0.0.1:{server.port}"
        yield SecondSource.connect(address, plan.groups, key=key.public_bytes, **terms)
    finally:
        server.close()
