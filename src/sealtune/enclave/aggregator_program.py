"""The aggregator of a federated job: asks the sites round by round, and averages their updates.

A site that fails loses its channel, and gets another chance in the next stage.

Trust domain: server enclave.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import prod

from sealtune.enclave.averaging import WeightedMean, read_adapter, write_adapter
from sealtune.enclave.events import Emit
from sealtune.enclave.round_state import Stage, read_fields, stages
from sealtune.enclave.sealed_state import Checkpoint, SealedState
from sealtune.enclave.server_program import ServerProgram
from sealtune.enclave.site_link import SiteLink
from sealtune.enclave.trust import Trust
from sealtune.enclave.update_bound import UpdateBound
from sealtune.errors import ChannelError
from sealtune.frames import Frame
from sealtune.job.resolved import Resolved

_SLACK = 1 << 20  # bytes that an answer may be longer than the adapter


class Aggregator(ServerProgram):
    """The aggregator of one run.

    Args:
        resolved: the job.
        trust: own evidence and what is accepted of the sites.
        state: where the checkpoint goes.
        emit: gets progress events.
        resume: go on after the checkpoint, if there is one.
    """

    def __init__(
        self, resolved: Resolved, trust: Trust, state: SealedState, emit: Emit, *, resume: bool
    ) -> None:
        job_id = bytes.fromhex(resolved.job_id)
        self._shapes = resolved.plan.trainable
        super().__init__(
            resolved,
            {s: SiteLink(s, job_id, trust, emit) for s in resolved.job.sites.names},
            answer_limit=sum(4 * prod(shape) for shape in self._shapes.values()) + _SLACK,
        )
        self._epoch = resolved.manifest.epoch
        self._questions_per_row = 1 if resolved.labels else resolved.job.data.max_tokens
        self._bounds = {
            site: UpdateBound(resolved.job.train, data.train_rows, resolved.plan.first_values)
            for site, data in resolved.manifest.data.items()
        }
        self._state = state
        self._emit = emit
        checkpoint = state.load() if resume else None
        self._adapter = checkpoint.adapter if checkpoint else b""
        self._history = list(checkpoint.history) if checkpoint else []
        done = checkpoint.round if checkpoint else None
        self._stages = stages(resolved.job.job.rounds, done)
        self._questions_sent = False  # whether the current stage's question has been sent
        self._started: float | None = None  # when the glue first asked for this stage
        self._begin_stage()

    def next(self) -> dict[str, bytes] | None:
        """Messages to send now, or None when the job is done.

        Raises:
            SiteLostError: fewer sites answered than the job asks for.
            StorageError: the checkpoint cannot be written.
        """
        self._settle()
        if self._questions_sent:
            self._finish_stage()
        if not self._stages:
            return None
        if self._started is None:
            self._started = time.monotonic()
        stage = self._stages[0]
        body = self._adapter if stage.kind != "evaluate" else b""
        message = Frame(stage.kind, {"round": stage.round}, body)
        left = [site for site, entry in self._entries.items() if not entry.reason]
        outgoing = self._send(dict.fromkeys(left, message), stage.round)
        self._questions_sent = bool(self._asked) or not left
        return outgoing

    def _read_answer(self, site: str, answer: Frame) -> Callable[[], None]:
        stage = self._stages[0]
        if answer.kind != stage.answer:
            raise ChannelError(f"answered with {answer.kind[:40]!r}, not {stage.answer!r}")
        signed = self._manifest.data[site]
        fields = read_fields(stage, answer.meta, signed, self._questions_per_row)
        if stage.kind != "train":
            return partial(self._entries[site].succeed, fields)
        update = read_adapter(bytes(answer.body), self._shapes)
        self._bounds[site].check(update, self._before)

        def accept() -> None:
            self._mean.add(update, signed.train_rows)
            self._entries[site].succeed(fields)

        return accept

    def _begin_stage(self) -> None:
        self._entries = self._fresh_entries()
        self._mean = WeightedMean(self._shapes)
        trains = bool(self._stages) and self._stages[0].kind == "train"
        known = trains and self._adapter  # the first round starts at what sites draw from the seed
        self._before = read_adapter(self._adapter, self._shapes) if known else None
        self._questions_sent = False
        self._started = None

    def _finish_stage(self) -> None:
        stage = self._stages[0]
        for entry in self._entries.values():
            if entry.outcome == "failed" and not entry.reason:
                entry.fail("no answer")
        good = [site for site, entry in self._entries.items() if entry.outcome == "ok"]
        enough = self._manifest.is_cohort(good) if stage.kind == "train" else bool(good)
        moved = stage.kind == "train" and enough and self._update()
        event = {
            "round": stage.round,
            "sites": {site: entry.public() for site, entry in self._entries.items()},
            "seconds": round(time.monotonic() - (self._started or 0.0), 3),
            # each site refuses to answer unless its frozen weights stayed as they were
            **({"trained_moved": moved, "frozen_unchanged": True} if stage.kind == "train" else {}),
        }
        self._emit("final" if stage.kind == "release" else "round", **event)
        if not enough:
            self._check_cohort(good, f"finished {_describe(stage)}")
        self._history.append(event)
        self._stages.pop(0)
        if stage.kind != "release":
            self._state.save(Checkpoint(stage.round, self._adapter, tuple(self._history)))
        if stage.kind == "train" and stage.round % self._epoch == 0:
            for link in self._links.values():
                link.drop()  # both sides prove themselves anew before the next message
        self._begin_stage()

    def _update(self) -> bool:
        """Make the mean the new global adapter; whether it differs from the last one."""
        before, self._adapter = self._adapter, write_adapter(self._mean.result())
        return before != self._adapter


def _describe(stage: Stage) -> str:
    return {
        "evaluate": "the first evaluation",
        "train": f"round {stage.round}",
        "release": "the release of the adapter",
    }[stage.kind]
