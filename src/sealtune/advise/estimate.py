"""Estimates of every way to run a job: plain PEFT, Method 1 at both levels, Method 2 cut by cut.

All ways train on the same number of examples: as many as the job itself would.

Trust domain: operator; public structure and counts only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sealtune.advise import costs
from sealtune.advise.costs import Batch
from sealtune.advise.counts import Counts
from sealtune.advise.enclave_memory import enclave_parts
from sealtune.advise.equipment import Equipment
from sealtune.advise.shape import Shape
from sealtune.job.sections import SplitSpec
from sealtune.job.spec import Job
from sealtune.model.cut_chunk import CHUNK
from sealtune.plan.split import cut_at

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
        rate: cost of an hour, in the unit of the job's costs.
        ruled_out: reasons, if it cannot be done or is not wanted.
    """

    way: Way
    protect: str
    cut: int | None
    own: bool
    memory_mib: dict[str, float]
    bytes: dict[str, float]
    seconds: dict[str, float]
    rate: float
    ruled_out: tuple[str, ...] = ()

    @property
    def hours(self) -> float:
        """From start to end."""
        return sum(self.seconds.values()) / 3600

    @property
    def cost(self) -> float:
        """From start to end, in the unit of the job's costs."""
        return self.hours * self.rate

    @property
    def name(self) -> str:
        """For people."""
        if self.cut is not None:
            return f"Method 2 (split), cut {self.cut}"
        return f"Method 1, {self.protect}" if self.protect else "plain PEFT"


def estimate(
    job: Job,
    shape: Shape,
    counts: Counts,
    equipment: Equipment,
    factors: Mapping[str, float] | None = None,
) -> list[Option]:
    """Every way to run ``job``, whether it can be done or not.

    Args:
        factors: pieces of a masked step -> seconds measured over seconds estimated.
    """
    ways = _Ways(job, shape, counts, equipment, factors or {})
    split = [ways.split(cut) for cut in cuts(job, len(shape.blocks))]
    return [ways.plain(), ways.federated("adapter"), ways.federated("adapter+data"), *split]


def cuts(job: Job, blocks: int) -> list[int]:
    """Cuts to look at: every one of a small model, else about ten, and always the job's own."""
    every = range(1, blocks)
    some = every if blocks <= MANY else {round(i * blocks / (FEW + 1)) for i in range(1, FEW + 1)}
    return sorted({*some, *([cut_at(job.split.cut, blocks)] if job.split else [])})


class _Ways:
    """The ways to run one job."""

    def __init__(
        self,
        job: Job,
        shape: Shape,
        counts: Counts,
        equipment: Equipment,
        factors: Mapping[str, float],
    ) -> None:
        self.job, self.shape, self.counts, self.equipment = job, shape, counts, equipment
        self.factors = factors
        self.spec, self.rounds = equipment.spec, job.job.rounds
        self.largest = counts.largest_step()
        # steps of a round: of each site, and of a server that has all rows
        rows = {site: part.rows for site, part in counts.train.items()}
        if job.job.rules.server_trains:
            self.pooled = job.train.steps(sum(rows.values()))
            share = self.pooled / sum(rows.values())
            self.steps = {site: max(1, round(share * count)) for site, count in rows.items()}
        else:
            self.steps = {site: job.train.steps(count) for site, count in rows.items()}
            self.pooled = sum(self.steps.values())

    def plain(self) -> Option:
        server, step = self.equipment.server, self.counts.pooled_step()
        tests = (costs.forward_work(self.shape, part.whole) for part in self.counts.test.values())
        seconds = {
            "start": costs.START_SECONDS,
            "train": self.rounds * self.pooled * server.seconds(costs.step_work(self.shape, step)),
            "evaluate": 2 * sum(server.seconds(work) for work in tests),
        }
        memory = _memory(server=costs.plain_memory(self.shape, self.largest))
        return Option("plain", "", None, False, memory, _sent(), seconds, self.spec.server_tee_cost)

    def federated(self, level: str) -> Option:
        shape, spec, sites = self.shape, self.spec, len(self.counts.train)
        first = shape.first_tuned if level == "adapter" and shape.prefix_fits else 0
        work = {site: self._masked(site, first) for site in self.counts.train}
        moved = {site: pieces.pop("moved") for site, pieces in work.items()}
        slowest = max(work.values(), key=lambda pieces: sum(pieces.values()))
        adapter = 4.0 * shape.trainable() + 2 * costs.MESSAGE_BYTES
        up = self.rounds * adapter + 2 * costs.MESSAGE_BYTES + costs.HANDSHAKE_UP
        down = (self.rounds + 1) * adapter + costs.MESSAGE_BYTES + costs.HANDSHAKE_DOWN
        seconds = {
            "start": costs.START_SECONDS,
            **{
                key: self._together((w[key] for w in work.values()), slowest[key])
                for key in slowest
            },
            **self._network(up, down, self.rounds + 2 + 2 * costs.HANDSHAKE_MESSAGES),
        }
        client = sum(enclave_parts(shape, self.largest, self.job, first).values())
        return Option(
            way="federated-lora",
            protect=level,
            cut=None,
            own=self.job.accelerated and self.job.protection.protect == level,
            memory_mib=_memory(
                client=client,
                server=costs.aggregator_memory(shape.trainable()),
                owner=client + costs.accelerator_memory(shape, self.largest.tokens, first),
            ),
            bytes=_sent(up, sites * up, sites * down, sum(moved.values())),
            seconds=seconds,
            rate=spec.server_tee_cost + sites * (spec.client_tee_cost + spec.accelerator_cost),
        )

    def _masked(self, site: str, first: int) -> dict[str, float]:
        """A site's seconds by piece, and the bytes ``moved`` between enclave and accelerator.

        Blocks below the first tuned one run once for each row.
        """
        train, test, shape = self.counts.train[site], self.counts.test[site], self.shape
        alone, kept = self.job.aggregation.personal_steps, shape.first_tuned
        steps = self.rounds * self.steps[site] + alone
        total: dict[str, float] = {}
        for batch, times, new, backward in (
            (train.step, steps, min(steps, train.rows / self.job.train.batch_size), True),
            (test.whole, 3 if alone else 2, 1, False),
        ):
            for part, count in (
                (costs.masked_step(shape, batch, kept, backward=backward, kept=True), times),
                (costs.masked_step(shape, batch, first, backward=False), new),
                (costs.masked_step(shape, batch, kept, backward=False, kept=True), -new),
            ):
                for piece, amount in self._pieces(part).items():
                    total[piece] = total.get(piece, 0.0) + count * amount
        return total

    def _pieces(self, step: costs.MaskedStep) -> dict[str, float]:
        client, link = self.equipment.client, self.spec.accelerator_gbit
        seconds = {
            "enclave": client.seconds(step.enclave),
            "accelerator": self.equipment.accelerator.seconds(step.accelerator),
            "pads": client.seconds(step.pads),
        }
        return {
            **{piece: s * self.factors.get(piece, 1.0) for piece, s in seconds.items()},
            "accelerator_link": 0.0 if link is None else step.moved * 8 / (link * 1e9),
            "moved": step.moved,
        }

    def split(self, cut: int) -> Option:
        shape, server = self.shape, self.equipment.server
        split = self.job.split or SplitSpec(cut=cut)
        again = self.job.train.checkpointing
        width = 2 if self.job.train.precision == "bf16" else 4
        parts = {site: (part, self.counts.test[site]) for site, part in self.counts.train.items()}
        bottoms, uploads, messages = [], [], 0
        for train, test in parts.values():
            texts = Batch(train.padded + test.padded, train.step.length)
            work = costs.forward_work(shape, texts, 0, cut, head=False)
            bottoms.append(self.equipment.owner.seconds(work))
            sizes = [
                costs.upload_bytes(shape, split.activations, part.rows, part.tokens, CHUNK)
                for part in (train, test)
            ]
            uploads.append(sum(sizes) + 2 * costs.HANDSHAKE_UP)
            messages = max(messages, sum(max(1, round(size / CHUNK)) for size in sizes))
        step = costs.step_work(shape, self.counts.pooled_step(), cut, checkpointing=again)
        tests = (costs.forward_work(shape, part.whole, cut) for part in self.counts.test.values())
        up, down = max(uploads), 2 * costs.HANDSHAKE_DOWN + 4.0 * shape.trainable(cut)
        down += messages * costs.MESSAGE_BYTES
        seconds = {
            "start": costs.START_SECONDS,
            "bottom": self._together(bottoms, max(bottoms)),
            **self._network(up, down, messages + 1 + 2 * costs.HANDSHAKE_MESSAGES),
            "train": self.rounds * self.pooled * server.seconds(step),
            "evaluate": (self.rounds + 2) * sum(server.seconds(work) for work in tests),
        }
        batch = max(part.largest.tokens for both in parts.values() for part in both)
        batch = max(batch, self.job.train.eval_batch_size * self.largest.length)
        return Option(
            way="split",
            protect="",
            cut=cut,
            own=self.job.split is not None and cut == cut_at(split.cut, len(shape.blocks)),
            memory_mib=_memory(
                server=costs.top_memory(shape, cut, self.largest, width=width, checkpointing=again),
                owner=costs.bottom_memory(shape, cut, batch, min(CHUNK, up)),
            ),
            bytes=_sent(up, sum(uploads), len(uploads) * down),
            seconds=seconds,
            rate=self.spec.server_tee_cost,
        )

    def _together(self, seconds: Iterable[float], slowest: float) -> float:
        """Sites at work: side by side, or in turn on one machine."""
        return sum(seconds) if self.spec.one_machine else slowest

    def _network(self, up: float, down: float, messages: int) -> dict[str, float]:
        """Seconds on the links of one site, and the network engine's own."""
        return {
            "uplink": up * 8 / (self.spec.uplink_mbit * 1e6),
            "downlink": down * 8 / (self.spec.downlink_mbit * 1e6),
            "exchanges": messages * costs.EXCHANGE_SECONDS,
        }


def _memory(*, client: float = 0.0, server: float = 0.0, owner: float = 0.0) -> dict[str, float]:
    amounts = {"client_enclave": client, "server_enclave": server, "owner_machine": owner}
    return {name: round(value / costs.MIB, 1) for name, value in amounts.items()}


def _sent(
    site: float = 0.0, up: float = 0.0, down: float = 0.0, accelerator: float = 0.0
) -> dict[str, float]:
    amounts = {"uplink_site": site, "uplink": up, "downlink": down, "accelerator": accelerator}
    return {name: float(round(value)) for name, value in amounts.items()}
