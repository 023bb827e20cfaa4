"""The server of a job under secure aggregation: it runs one sum after another, and sees sums only.

    evaluate   how the model as it is answers all test rows
    train      round after round: the global adapter goes out, the mean of its changes comes in
    release    the last adapter, which the sites evaluate and keep

A site that is lost before its vector is in a sum is left out of it; one that is lost later is in
it. Sites give shares for each sum once. So a sum whose unmasking had begun when the server stopped
is not asked for again: a resumed run goes on with the next one.

Trust domain: server operator. Sites do not believe it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sealtune.job.events import Final, Round
from sealtune.methods.federated.adapter import adapter_size
from sealtune.methods.federated.global_adapter import GlobalAdapter
from sealtune.methods.secure_aggregation.messages import Stage, stage_of
from sealtune.methods.secure_aggregation.one_sum import OneSum
from sealtune.methods.secure_aggregation.vectors import Vectors, changed
from sealtune.party.admit import Admitted
from sealtune.party.checkpoint import Checkpoint, CheckpointFile, State
from sealtune.party.driver import Program
from sealtune.party.events import Emit
from sealtune.party.outcome import reported, too_few
from sealtune.secure_sum.ring import VALUE

_SLACK = 1 << 20  # bytes that an answer may be longer than the vector
_DONE: Mapping[Stage, str] = {
    "evaluate": "the first evaluation",
    "train": "round {}",
    "release": "the release",
}


class SumState(State):
    """What the server keeps besides the global adapter.

    Attributes:
        unmasked: the last sum of which sites may have given shares; -1: none.
    """

    unmasked: int = -1


class SumServer:
    """The server of one run; sites keep for themselves which sums they gave shares for.

    Args:
        admitted: the job.
        emit: gets progress events.

    Raises:
        StorageError: the checkpoint does not open.
    """

    history = None

    def __init__(self, admitted: Admitted, emit: Emit) -> None:
        self._admitted = admitted
        self._manifest = admitted.manifest
        self._rounds = admitted.settings.job.rounds
        self._emit = emit
        self._vectors = Vectors(admitted.manifest)
        shapes = admitted.plan.trainable
        sizes = VALUE * self._vectors.length("train"), adapter_size(shapes)
        self.answer_limit = max(sizes) + _SLACK
        job_id = bytes.fromhex(admitted.job_id)
        folder, key = admitted.state_folder, admitted.sealing_key
        self._checkpoints = CheckpointFile(folder, key, job_id, SumState)
        saved = self._checkpoints.load() if admitted.resumes else None
        self._done = saved.round if saved else -1  # the last finished sum
        self._unmasked = saved.state.unmasked if saved else -1
        self._adapter = GlobalAdapter(admitted, shapes, saved.tensors if saved else None)

    def program(self) -> Program:
        """The whole job.

        Raises:
            SiteLostError: fewer sites saw a sum through than it needs.
            SecureAggregationError: shares do not open what they should.
            StorageError: the checkpoint cannot be written.
        """
        release = self._rounds + 1
        for number in range(max(self._done, self._unmasked) + 1, release + 1):
            yield from self._sum(number)

    def _sum(self, number: int) -> Program:
        """One sum, and what follows from it."""
        begun, stage, before = time.monotonic(), stage_of(number, self._rounds), self._adapter.body
        anew = number - 1 > 0 and (number - 1) % self._manifest.epoch == 0
        length = self._vectors.length(stage)
        one = OneSum(self._admitted, number, length, before, anew=anew)
        failed, figures = "", dict[str, Any]()
        for name, step in one.steps.items():
            if name == "unmask":
                self._unmasked = number
                self._keep()  # before any share can have been given
            answered = yield from step()
            if not one.suffices(name, answered):
                failed = name
                break
        if not failed:
            figures = self._read(stage, one)
            self._done = number
            self._keep()
        if stage == "train" and one.survivors:
            stated = [one.outcomes[site].fields["frozen_unchanged"] for site in one.survivors]
            moved = self._adapter.body != before
            figures |= {"trained_moved": moved, "frozen_unchanged": all(stated)}
        self._report(stage, number, one, time.monotonic() - begun, figures)
        if failed:
            done = f"saw step '{failed}' of {_DONE[stage].format(number)} through"
            raise too_few(self._manifest, one.outcomes, answered, done)

    def _read(self, stage: Stage, one: OneSum) -> dict[str, Any]:
        """What a sum says; after training, it moves the global adapter."""
        total = one.collector.result()
        if stage != "train":
            answers = self._vectors.answers(total, one.survivors)
            return answers._asdict() if answers else {}
        changes, loss = self._vectors.mean_changes(total, one.survivors)
        self._adapter.move(changed(self._adapter.tensors, changes))
        return {"train_loss": loss}

    def _report(
        self, stage: Stage, number: int, one: OneSum, seconds: float, figures: dict[str, Any]
    ) -> None:
        event = Final if stage == "release" else Round
        said = reported(self._manifest, one.outcomes) | figures
        self._emit(event(round=min(number, self._rounds), seconds=round(seconds, 3), **said))

    def _keep(self) -> None:
        state = SumState(unmasked=self._unmasked)
        self._checkpoints.save(Checkpoint(max(self._done, 0), state, self._adapter.packed()))
