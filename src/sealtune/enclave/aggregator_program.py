"""What the server enclave does: a state machine of bytes in and bytes out.

    next()                what to send to which site now, or None when all is done
    reply(site, body)     a site's answer
    absent(site, reason)  there is none

Every site that ``next`` names is answered for by exactly one of the other two before ``next`` is
called again. A site without a channel is taken through the handshake first; one that fails loses
its channel, and gets another chance in the next stage.

Trust domain: server enclave.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import prod

from sealtune.enclave.averaging import WeightedMean, read_adapter, write_adapter
from sealtune.enclave.events import Emit
from sealtune.enclave.round_state import Entry, Stage, read_fields, stages
from sealtune.enclave.sealed_state import Checkpoint, SealedState
from sealtune.enclave.site_link import SiteLink
from sealtune.enclave.trust import Trust
from sealtune.errors import AttestationError, ChannelError, FrameError, ModelError, SiteLostError
from sealtune.frames import Frame
from sealtune.job.resolved import Resolved

_SLACK = 1 << 20  # bytes that an answer may be longer than the adapter


class Aggregator:
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
        self._job = resolved.job
        self._epoch = resolved.manifest.epoch
        self._cohort = max(resolved.job.quorum, resolved.manifest.min_cohort)
        self._shapes = resolved.plan.trainable
        self._state = state
        self._emit = emit
        job_id = bytes.fromhex(resolved.job_id)
        self._links = {
            site: SiteLink(site, job_id, trust, emit) for site in resolved.job.sites.names
        }
        checkpoint = state.load() if resume else None
        self._adapter = checkpoint.adapter if checkpoint else b""
        self._history = list(checkpoint.history) if checkpoint else []
        done = checkpoint.round if checkpoint else None
        self._stages = stages(resolved.job.job.rounds, done)
        self._limit = sum(4 * prod(shape) for shape in self._shapes.values()) + _SLACK
        self._asked = False  # whether the current stage's question has been sent
        self._started: float | None = None  # when the glue first asked for this stage
        self._awaited: set[str] = set()  # sites that have not been answered for
        self._begin_stage()

    @property
    def deadline(self) -> float:
        """Seconds that a site may take for one message."""
        return self._job.network.deadline

    @property
    def max_message(self) -> int:
        """Bytes that an honest site's message has at most."""
        return 2 * self._limit

    def next(self) -> dict[str, bytes] | None:
        """Messages to send now, or None when the job is done.

        Raises:
            SiteLostError: fewer sites answered than the job asks for.
            StorageError: the checkpoint cannot be written.
        """
        for site in sorted(self._awaited):  # the glue lost track of them, or was restarted
            self.absent(site, "no outcome was reported")
        if self._asked:
            self._finish_stage()
        if not self._stages:
            return None
        if self._started is None:
            self._started = time.monotonic()
        stage = self._stages[0]
        lost = {site for site, entry in self._entries.items() if entry.reason}
        strangers = [s for s, link in self._links.items() if not link.open and s not in lost]
        if strangers:
            return self._count_down({s: self._links[s].handshake_message() for s in strangers})
        self._asked = True
        body = self._adapter if stage.kind != "evaluate" else b""
        message = Frame(stage.kind, {"round": stage.round}, body)
        return self._count_down(
            {s: link.seal(message, stage.round) for s, link in self._links.items() if link.open}
        )

    def reply(self, site: str, body: bytes) -> None:
        """Take one site's answer; a bad one fails that site only."""
        self._take(site)
        link, entry = self._links[site], self._entries[site]
        entry.bytes_up += len(body)
        try:
            if self._asked:
                self._on_answer(site, body)
            else:
                link.on_handshake_reply(body)
        except (ChannelError, AttestationError, ModelError) as error:
            self._lose(site, f"refused: {error.message}")

    def absent(self, site: str, reason: str) -> None:
        """There is no answer from this site."""
        self._take(site)
        self._lose(site, reason, late="deadline" in reason)

    def _take(self, site: str) -> None:
        """One outcome for each message: a second answer must not be added to the mean."""
        if site not in self._awaited:
            raise FrameError(f"an outcome for {site[:40]!r}, of which nothing was asked")
        self._awaited.remove(site)

    def _on_answer(self, site: str, body: bytes) -> None:
        stage = self._stages[0]
        answer = self._links[site].unseal(body, stage.round, max_body=self._limit)
        if answer.kind != stage.answer:
            raise ChannelError(f"answered with {answer.kind[:40]!r}, not {stage.answer!r}")
        fields = read_fields(stage, answer.meta)
        if stage.kind == "train":
            tensors = read_adapter(bytes(answer.body), self._shapes)
            self._mean.add(tensors, fields["examples"])
        self._entries[site].succeed(fields)

    def _lose(self, site: str, reason: str, *, late: bool = False) -> None:
        self._links[site].drop()
        self._entries[site].fail(reason, late=late)

    def _count_down(self, outgoing: dict[str, bytes]) -> dict[str, bytes]:
        for site, body in outgoing.items():
            self._entries[site].bytes_down += len(body)
        self._awaited = set(outgoing)
        return outgoing

    def _begin_stage(self) -> None:
        self._entries = {site: Entry(reason="") for site in self._links}
        self._mean = WeightedMean(self._shapes)
        self._asked = False
        self._started = None

    def _finish_stage(self) -> None:
        stage = self._stages[0]
        for entry in self._entries.values():
            if entry.outcome == "failed" and not entry.reason:
                entry.fail("no answer")
        good = [site for site, entry in self._entries.items() if entry.outcome == "ok"]
        enough = len(good) >= (self._cohort if stage.kind == "train" else 1)
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
            raise SiteLostError(
                f"only {len(good)} of {len(self._entries)} sites finished {_describe(stage)}, "
                f"{self._cohort} are needed: {_reasons(self._entries)}",
                hint="bring the site back and continue with --resume, or lower network.min_sites",
            )
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


def _reasons(entries: Mapping[str, Entry]) -> str:
    return "; ".join(f"{site}: {e.reason}" for site, e in entries.items() if e.outcome != "ok")
