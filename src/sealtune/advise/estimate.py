"""Estimates of every way to run a job: plain PEFT, Method 1 at both levels, Method 2 cut by cut.

All ways train on the same number of examples: as many as the job itself would.

Trust domain: operator; public structure and counts only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sealtune.advise import costs
from sealtune.advise.costs import Batch
from sealtune.advise.counts import Counts, Part
from sealtune.advise.equipment import Equipment
from sealtune.advise.shape import Shape
from sealtune.job.method import method_of
from sealtune.job.spec import Job, SplitSpec
from sealtune.model.cut import cut_at
from sealtune.model.cut_chunk import CHUNK

Way = Literal["plain", "federated-lora", "split"]
MANY, FEW = 12, 10  # blocks up to which every cut is looked at; cuts of a larger model


@dataclass(frozen=True)
class Option:
    """One way to run the job, and what it would take.

    Attributes:
        way: method, or ``plain``.
        protect: protection level; empty for plain PEFT and ``split``.
        cut: blocks at the sites, for ``split``.
        own: whether the job says just this.
        memory_mib: ``client_enclave``, ``server_enclave`` and ``owner_machine``, peak; 0 where
            there is none.
        bytes: ``uplink_site`` (the busiest), ``uplink``, ``downlink`` and ``accelerator``, of all
            sites together.
        seconds: by piece; they add up to ``hours``.
        cost: in the unit of the job's costs per hour.
        ruled_out: reasons, if it cannot be done or is not wanted.
    """

    way: Way
    protect: str
    cut: int | None
    own: bool
    memory_mib: dict[str, float]
    bytes: dict[str, float]
    seconds: dict[str, float]
    cost: float
    ruled_out: tuple[str, ...] = field(default=())

    @property
    def hours(self) -> float:
        """From start to end."""
        return sum(self.seconds.values()) / 3600

    @property
    def name(self) -> str:
        """For people."""
        if self.cut is not None:
            return f"Method 2 (split), cut {self.cut}"
        return f"Method 1, {self.protect}" if self.protect else "plain PEFT"


@dataclass(frozen=True)
class _Plan:
    """How many steps whoever trains makes in a round."""

    rounds: int
    site: dict[str, int]
    pooled: int


def estimate(job: Job, shape: Shape, counts: Counts, equipment: Equipment) -> list[Option]:
    """Every way to run ``job``, whether it can be done or not."""
    plan = _plan(job, counts)
    options = [_plain(shape, counts, equipment, plan)]
    for level in ("adapter", "adapter+data"):
        options.append(_federated(job, level, shape, counts, equipment, plan))
    split = job.split or SplitSpec(cut=1)
    options += [
        _split(job, split, cut, shape, counts, equipment, plan)
        for cut in cuts(job, len(shape.blocks))
    ]
    return options


def cuts(job: Job, blocks: int) -> list[int]:
    """Cuts to look at: every one of a small model, else about ten, and always the job's own."""
    every = range(1, blocks)
    some = every if blocks <= MANY else {round(i * blocks / (FEW + 1)) for i in range(1, FEW + 1)}
    return sorted({*some, *_own_cut(job, blocks)})


def _own_cut(job: Job, blocks: int) -> set[int]:
    """The job's own cut, if it names one."""
    return {cut_at(job.split.cut, blocks)} if job.split else set()


def _plan(job: Job, counts: Counts) -> _Plan:
    rows = {site: part.rows for site, part in counts.train.items()}
    if not method_of(job.job.method).server_trains:
        site = {name: job.train.steps(count) for name, count in rows.items()}
        return _Plan(job.job.rounds, site, sum(site.values()))
    pooled = job.train.steps(sum(rows.values()))
    share = pooled / sum(rows.values())
    return _Plan(job.job.rounds, {n: max(1, round(share * c)) for n, c in rows.items()}, pooled)


def _together(equipment: Equipment, values: Iterable[float]) -> float:
    """Sites at work: side by side, or in turn on one machine."""
    seconds = list(values)
    return sum(seconds) if equipment.spec.one_machine else max(seconds)


def _evaluation(part: Part) -> Batch:
    """All test rows as one batch: only tokens and the length of rows count."""
    return Batch(part.padded, part.step.length)


def _plain(shape: Shape, counts: Counts, equipment: Equipment, plan: _Plan) -> Option:
    server, tests = equipment.server, counts.test.values()
    step = server.seconds(costs.step_work(shape, counts.pooled_step()))
    test = sum(server.seconds(costs.forward_work(shape, _evaluation(part))) for part in tests)
    seconds = {
        "start": costs.START_SECONDS,
        "train": plan.rounds * plan.pooled * step,
        "evaluate": 2 * test,
    }
    memory = costs.plain_memory(shape, counts.largest_step().tokens)
    return Option(
        way="plain",
        protect="",
        cut=None,
        own=False,
        memory_mib=_memory(server=memory),
        bytes=_bytes(0, 0, 0, 0),
        seconds=seconds,
        cost=sum(seconds.values()) / 3600 * equipment.spec.server_tee_cost,
    )


def _federated(
    job: Job, level: str, shape: Shape, counts: Counts, equipment: Equipment, plan: _Plan
) -> Option:
    plain = level == "adapter" and shape.prefix_fits
    first = shape.first_tuned if plain else 0
    bits = job.protection.integrity_bits
    link = equipment.spec.accelerator_gbit

    def pieces(batch: Batch, *, backward: bool) -> dict[str, float]:
        inside = costs.enclave_work(shape, batch, first, backward=backward, integrity_bits=bits)
        outside = costs.accelerator_work(shape, batch, first, backward=backward)
        pads = costs.pads_work(shape, batch.tokens, first, backward=backward)
        moved = costs.accelerator_bytes(shape, batch.tokens, first, backward=backward)
        return {
            "enclave": equipment.client.seconds(inside),
            "accelerator": equipment.accelerator.seconds(outside),
            "pads": equipment.client.seconds(pads),
            "accelerator_link": 0.0 if link is None else moved * 8 / (link * 1e9),
            "bytes": moved,
        }

    work = {}
    for site in counts.train:
        step = pieces(counts.train[site].step, backward=True)
        test = pieces(_evaluation(counts.test[site]), backward=False)
        steps = plan.rounds * plan.site[site]
        work[site] = {key: steps * step[key] + 2 * test[key] for key in step}
    slowest = max(work.values(), key=lambda w: sum(w.values()) - w["bytes"])
    adapter = 4.0 * shape.trainable() + 2 * costs.MESSAGE_BYTES
    up = plan.rounds * adapter + 2 * costs.MESSAGE_BYTES + costs.HANDSHAKE_UP
    down = (plan.rounds + 1) * adapter + costs.MESSAGE_BYTES + costs.HANDSHAKE_DOWN
    messages = plan.rounds + 2 + 2 * costs.HANDSHAKE_MESSAGES
    busy = ("enclave", "accelerator", "pads", "accelerator_link")
    seconds = {"start": costs.START_SECONDS}
    for key in busy:
        in_turn = sum(w[key] for w in work.values())
        seconds[key] = in_turn if equipment.spec.one_machine else slowest[key]
    seconds |= _network(equipment, up, down, messages)
    sites = len(counts.train)
    spec = equipment.spec
    rate = spec.server_tee_cost + sites * (spec.client_tee_cost + spec.accelerator_cost)
    largest = counts.largest_step().tokens
    client = costs.client_enclave_memory(shape, largest, first)
    return Option(
        way="federated-lora",
        protect=level,
        cut=None,
        own=job.job.method == "federated-lora" and job.protection.protect == level,
        memory_mib=_memory(
            client=client,
            server=costs.aggregator_memory(shape.trainable()),
            owner=client + costs.accelerator_memory(shape, largest, first),
        ),
        bytes=_bytes(up, sites * up, sites * down, sum(w["bytes"] for w in work.values())),
        seconds=seconds,
        cost=sum(seconds.values()) / 3600 * rate,
    )


def _split(
    job: Job,
    split: SplitSpec,
    cut: int,
    shape: Shape,
    counts: Counts,
    equipment: Equipment,
    plan: _Plan,
) -> Option:
    width, again = (2 if split.compute == "bf16" else 4), split.checkpointing
    bottoms, uploads = [], {}
    messages = 0
    for site, train in counts.train.items():
        test = counts.test[site]
        work = costs.forward_work(
            shape, Batch(train.padded + test.padded, train.step.length), 0, cut, head=False
        )
        bottoms.append(equipment.owner.seconds(work))
        sizes = [
            costs.upload_bytes(
                split.activations,
                shape.width,
                part.rows,
                part.tokens,
                CHUNK,
                with_ids=job.model.task == "causal-lm",
            )
            for part in (train, test)
        ]
        uploads[site] = sum(sizes) + 2 * costs.HANDSHAKE_UP
        messages = max(messages, sum(max(1, round(size / CHUNK)) for size in sizes))
    step = costs.step_work(shape, counts.pooled_step(), cut, checkpointing=again)
    tests = [costs.forward_work(shape, _evaluation(p), cut) for p in counts.test.values()]
    evaluation = sum(equipment.server.seconds(work) for work in tests)
    up = max(uploads.values())
    down = 2 * costs.HANDSHAKE_DOWN + 4.0 * shape.trainable(cut) + messages * costs.MESSAGE_BYTES
    network = _network(equipment, up, down, messages + 1 + 2 * costs.HANDSHAKE_MESSAGES)
    seconds = {
        "start": costs.START_SECONDS,
        "bottom": _together(equipment, bottoms),
        **network,
        "train": plan.rounds * plan.pooled * equipment.server.seconds(step),
        "evaluate": (plan.rounds + 2) * evaluation,
    }
    chunk = min(CHUNK, up)
    batch = max(p.largest.tokens for p in (*counts.train.values(), *counts.test.values()))
    batch = max(batch, job.train.eval_batch_size * counts.largest_step().length)
    owner = costs.bottom_memory(shape, cut, batch, chunk)
    server = costs.top_memory(
        shape, cut, counts.largest_step().tokens, width=width, checkpointing=again
    )
    return Option(
        way="split",
        protect="",
        cut=cut,
        own=cut in _own_cut(job, len(shape.blocks)),
        memory_mib=_memory(server=server, owner=owner),
        bytes=_bytes(up, sum(uploads.values()), len(uploads) * down, 0),
        seconds=seconds,
        cost=sum(seconds.values()) / 3600 * equipment.spec.server_tee_cost,
    )


def _network(equipment: Equipment, up: float, down: float, messages: int) -> dict[str, float]:
    """Seconds on the links of one site, and the network engine's own."""
    spec = equipment.spec
    return {
        "uplink": up * 8 / (spec.uplink_mbit * 1e6),
        "downlink": down * 8 / (spec.downlink_mbit * 1e6),
        "exchanges": messages * costs.EXCHANGE_SECONDS,
    }


def _memory(*, client: float = 0.0, server: float = 0.0, owner: float = 0.0) -> dict[str, float]:
    amounts = {"client_enclave": client, "server_enclave": server, "owner_machine": owner}
    return {name: round(value / costs.MIB, 1) for name, value in amounts.items()}


def _bytes(site: float, up: float, down: float, accelerator: float) -> dict[str, float]:
    amounts = {"uplink_site": site, "uplink": up, "downlink": down, "accelerator": accelerator}
    return {name: float(round(value)) for name, value in amounts.items()}
