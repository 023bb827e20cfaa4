"""The aggregator of a federated job: asks the sites round by round, and averages their updates.

    evaluate   the model as it is, before the first round
    train      round after round: the global adapter goes out, updates come in, their mean is next
    release    the last adapter, which the sites evaluate and keep

A site that fails loses its channel, and gets another chance in the next stage.

Trust domain: server enclave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import Field

from sealtune.errors import ChannelError
from sealtune.frames import Frame
from sealtune.job.events import Final, Round
from sealtune.methods.federated.adapter import adapter_size
from sealtune.methods.federated.agreement import Standing
from sealtune.methods.federated.budget import spent
from sealtune.methods.federated.global_adapter import GlobalAdapter
from sealtune.methods.federated.norm_bound import FIRST_RATIO
from sealtune.methods.federated.participation import asked_in
from sealtune.methods.federated.ranks import Outgoing
from sealtune.methods.federated.site_report import StageKind, read_report
from sealtune.methods.federated.training_round import TrainingRound
from sealtune.methods.federated.update import Update
from sealtune.party.admit import Admitted
from sealtune.party.checkpoint import Checkpoint, CheckpointFile, State
from sealtune.party.driver import Ask, Program
from sealtune.party.events import Emit
from sealtune.party.history import History
from sealtune.party.outcome import SiteOutcome, new_outcomes, reported, too_few

_SLACK = 1 << 20  # bytes that an answer may be longer than the adapter
_ANSWERS = {"evaluate": "metrics", "train": "update", "release": "metrics"}
_DONE = {"evaluate": "the first evaluation", "train": "round {}", "release": "the release"}
_Answer = tuple[dict[str, Any], Update | None]  # what a site reports, and its update


class FederatedState(State):
    """What a federated job keeps besides the global adapter.

    Attributes:
        norm_ratio: see ``NormBound``.
        trained: site -> the last round whose aggregate has its update.
        standings: see ``Agreement``.
    """

    norm_ratio: float = FIRST_RATIO
    trained: Mapping[str, int] = Field(default_factory=dict)
    standings: Mapping[str, Standing] = Field(default_factory=dict)


class FederatedServer:
    """The aggregator of one run.

    Args:
        admitted: the job.
        emit: gets progress events.

    Raises:
        StorageError: the checkpoint does not open.
    """

    def __init__(self, admitted: Admitted, emit: Emit) -> None:
        self._admitted = admitted
        self._manifest = admitted.manifest
        self._sites = admitted.settings.sites.names
        self._rounds = admitted.settings.job.rounds
        self._questions_per_row = 1 if admitted.labels else admitted.settings.data.max_tokens
        self._emit = emit
        self._shapes = admitted.plan.shared
        self.answer_limit = adapter_size(self._shapes) + _SLACK
        job_id = bytes.fromhex(admitted.job_id)
        folder, key = admitted.state_folder, admitted.sealing_key
        self.history = History(key, job_id)
        self._checkpoints = CheckpointFile(
            folder, key, job_id, FederatedState, history=self.history
        )
        saved = self._checkpoints.load() if admitted.resumes else None
        self._round = saved.round if saved else None  # the last finished one
        self._state = saved.state if saved else FederatedState()
        self._adapter = GlobalAdapter(admitted, self._shapes, saved.tensors if saved else None)

    def program(self) -> Program:
        """The whole job, or as many of its rounds as the budget of privacy pays for.

        Raises:
            SiteLostError: fewer sites answered than the job asks for.
            StorageError: the checkpoint cannot be written.
        """
        if self._round is None:
            yield from self._stage("evaluate", 0)
            self._keep(0)
        done = self._round or 0
        for number in range(done + 1, self._manifest.rounds + 1):
            yield from self._stage("train", number)
            self._keep(number)
            self._tell_spent(number)
            done = number
        if done < self._rounds:
            self._tell_spent(done, ended=True)
        yield from self._stage("release", done)

    def _stage(self, kind: StageKind, number: int) -> Program:
        """Ask all sites to do one thing; what comes out of training is the next adapter."""
        begun, before, trained = time.monotonic(), self._adapter.body, dict[str, Any]()
        asked = asked_in(self._manifest, number) if kind == "train" else self._sites
        outcomes, updates = new_outcomes(self._sites, asked), None
        outgoing = Outgoing(self._adapter.body, self._shapes, self._manifest.settings.tuning)
        if kind == "train":
            state = self._state
            updates = TrainingRound(
                self._admitted, outgoing, state.norm_ratio, state.standings, number
            )
        answered = yield Ask(
            {s: Frame(kind, self._meta(s, number), outgoing.to(s).body) for s in asked},
            number,
            self._checker(kind, number, updates),
            partial(self._take, outcomes, updates),
            outcomes,
            anew=self._ends_epoch(number - (kind == "train")),
        )
        enough = self._manifest.is_cohort(answered) if updates else bool(answered)
        if updates and enough:
            self._adapter.move(updates.result(sum(one.rejected for one in outcomes.values())))
            standings, compared = updates.compare()
            self._state = FederatedState(
                norm_ratio=updates.norms.next_ratio,
                trained={**self._state.trained, **dict.fromkeys(answered, number)},
                standings=standings,
            )
            for site, fields in compared.items():
                outcomes[site].fields |= fields
        if updates and answered:
            stated = [outcomes[site].fields["frozen_unchanged"] for site in answered]
            moved = self._adapter.body != before
            trained = {"trained_moved": moved, "frozen_unchanged": all(stated)}
            trained |= updates.figures()
        event = Final if kind == "release" else Round
        seconds = round(time.monotonic() - begun, 3)
        figures = reported(self._manifest, outcomes)
        self._emit(event(round=number, seconds=seconds, **figures, **trained))
        if not enough:
            done = f"finished {_DONE[kind].format(number)}"
            raise too_few(self._manifest, outcomes, answered, done)

    def _meta(self, site: str, number: int) -> dict[str, int]:
        """What a question says of itself, and of personal parts."""
        return {"round": number, "trained": self._state.trained.get(site, 0)}

    def _ends_epoch(self, number: int) -> bool:
        """Whether both sides prove themselves anew after training round ``number``."""
        return number > 0 and number % self._manifest.epoch == 0

    def _checker(
        self, kind: StageKind, number: int, updates: TrainingRound | None
    ) -> Callable[[str, Frame], _Answer]:
        """What reads the sites' answers."""

        def check(site: str, answer: Frame) -> _Answer:
            if answer.kind != _ANSWERS[kind]:
                raise ChannelError(f"answered with {answer.kind[:40]!r}, not {_ANSWERS[kind]!r}")
            signed = self._manifest.data[site]
            report = read_report(kind, number, answer.meta, signed, self._questions_per_row)
            return report, updates.check(site, bytes(answer.body)) if updates else None

        return check

    def _take(
        self,
        outcomes: Mapping[str, SiteOutcome],
        updates: TrainingRound | None,
        site: str,
        answer: _Answer,
    ) -> None:
        report, update = answer
        if updates and update:
            report |= updates.take(site, update)
        outcomes[site].fields = report

    def _tell_spent(self, number: int, *, ended: bool = False) -> None:
        told = spent(self._manifest, number, ended=ended)
        if told is not None:
            self._emit(told)

    def _keep(self, number: int) -> None:
        self._checkpoints.save(Checkpoint(number, self._state, self._adapter.packed()))
