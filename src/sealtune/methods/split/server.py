"""The server enclave of a split job: collects the sites' samples, tunes the top on all of them.

    collect   each site's chunks, asked for one after another; an upload that broke off goes on
    train     round after round, no message to anybody; a checkpoint after each
    release   the adapter to every site, if the manifest says so

Trust domain: server enclave.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sealtune.errors import DataError, StorageError
from sealtune.frames import Frame
from sealtune.job.events import Final, Round
from sealtune.job.training_events import Upload
from sealtune.methods.split.release import Release, release_parts
from sealtune.methods.split.sample_store import SampleStore
from sealtune.methods.split.top_trainer import TopState, TopTrainer
from sealtune.methods.split.upload import Checked, Uploads, check_complete
from sealtune.model.cut_chunk import CHUNK, layout_of
from sealtune.model.training import Evaluation
from sealtune.party.admit import Admitted
from sealtune.party.checkpoint import Checkpoint, CheckpointFile, State
from sealtune.party.driver import Ask, Program
from sealtune.party.events import Emit
from sealtune.party.history import History
from sealtune.party.outcome import SiteOutcome, new_outcomes, reported, too_few

_SLACK = 64 << 20  # bytes: one long sample more, lengths, labels and token ids
_PATIENCE = 3  # messages in a row that a site may lose before the job goes on without it


class SplitState(State):
    """What a split job keeps besides the trainer's tensors.

    Attributes:
        samples: site -> digest of its samples, for the sites that are trained on.
        choices: what the tuners chose.
    """

    samples: dict[str, str]
    choices: dict[str, Any]


def top_state(saved: Checkpoint[SplitState]) -> TopState:
    """What the trainer goes on from."""
    return TopState(saved.state.choices, saved.tensors)


class SplitServer:
    """The split trainer of one run.

    Args:
        admitted: the job.
        emit: gets progress events.

    Raises:
        StorageError: what is there does not open.
    """

    def __init__(self, admitted: Admitted, emit: Emit) -> None:
        job_id, resume = bytes.fromhex(admitted.job_id), admitted.resumes
        folder, key = admitted.state_folder, admitted.sealing_key
        layout = layout_of(admitted.job, len(admitted.labels))
        self.answer_limit = CHUNK + layout.max_tokens * layout.token_bytes + _SLACK
        self._manifest = admitted.manifest
        self._sites = admitted.job.sites.names
        self._rounds = admitted.job.job.rounds
        self._emit = emit
        self._store = SampleStore(folder / "activations", key, job_id, layout)
        self._trainer = TopTrainer(admitted, self._store, emit)
        self.history = History(key, job_id)
        self._checkpoints = CheckpointFile(folder, key, job_id, SplitState, history=self.history)
        self._saved = self._checkpoints.load() if resume else None
        self._uploads = Uploads(admitted, self._store, layout, resume=resume)
        self._outcomes = new_outcomes(self._sites)
        self._reported = time.monotonic()  # when the last round ended

    def program(self) -> Program:
        """The whole job.

        Raises:
            SiteLostError: fewer sites have sent their samples than the job asks for.
            ModelError: training went wrong.
            StorageError: samples or the checkpoint cannot be read or written.
        """
        saved = self._saved
        if saved is None:
            yield from self._collect()
        begun = time.monotonic()
        sites = self._complete_sites() if saved is None else self._sites_of(saved.state)
        self._check_cohort(sites)
        samples = {site: self._store.digest(site) for site in sites}
        self._trainer.begin(sites, top_state(saved) if saved else None)
        first = saved.round + 1 if saved else 0
        self._saved = saved = None  # its tensors are as many as the top's
        yield None
        for number in range(first, self._rounds + 1):
            self._train_and_test(number, begun)
            top = self._trainer.save()
            state = SplitState(samples=samples, choices=top.choices)
            self._checkpoints.save(Checkpoint(number, state, top.tensors))
            yield None
            begun = time.monotonic()
        yield from self._release(sites)

    def _collect(self) -> Program:
        """Ask every site for its chunks until all have come, or will not."""
        while chunks := self._not_failed(self._uploads.questions):
            check, outcomes = self._uploads.check, self._outcomes
            yield Ask(chunks, 0, check, self._take, outcomes, patience=_PATIENCE)
            for site in chunks:
                if outcomes[site].rejected:
                    self._uploads.drop(site)

    def _take(self, site: str, checked: Checked) -> None:
        self._uploads.take(site, checked)
        sent, of = self._store.chunks(site), self._uploads.of[site] or 0
        self._emit(Upload(site=site, chunk=sent, of=of, bytes=self._outcomes[site].bytes_up))

    def _train_and_test(self, number: int, begun: float) -> None:
        """One round; round 0 only tests."""
        trained: dict[str, Any] = {}
        if number:
            result = self._trainer.train(number)
            for key in ("train_loss", "trained_moved", "frozen_unchanged"):
                trained[key] = getattr(result, key)
        found = self._trainer.test(number)
        self._report(number, found, time.monotonic() - begun, traffic=not number, **trained)

    def _release(self, sites: list[str]) -> Program:
        """Export, test for the last time, and tell every site."""
        begun = time.monotonic()
        files = self._trainer.export()
        found = self._trainer.test(self._rounds)
        spent = time.monotonic() - begun
        before, self._outcomes = self._outcomes, new_outcomes(self._sites)
        for site in set(self._sites) - set(sites):
            self._outcomes[site].fail(before[site].reason, late=before[site].outcome == "late")
        released = files if self._manifest.release == "participants" else {}
        release = Release(release_parts(released, self._rounds), sites)
        anew = True
        while parts := self._not_failed(release.next_parts):
            check, take, outcomes = release.check, release.take, self._outcomes
            yield Ask(parts, self._rounds, check, take, outcomes, patience=_PATIENCE, anew=anew)
            anew = False
        self._report(self._rounds, found, spent, traffic=True, event=Final)

    def _not_failed(self, messages: Mapping[str, Frame]) -> dict[str, Frame]:
        return {s: message for s, message in messages.items() if not self._outcomes[s].reason}

    def _complete_sites(self) -> list[str]:
        """The sites of which all that was signed is here; what is wrong goes, and is said."""
        complete = []
        for site, of in self._uploads.of.items():
            sent = self._store.chunks(site)
            try:
                if of == sent:
                    check_complete(self._store.counts(site), self._manifest.data[site])
                    complete.append(site)
                elif not self._outcomes[site].reason:
                    self._outcomes[site].fail(f"sent {sent} of {of or '?'} chunks")
            except DataError as error:
                self._uploads.drop(site)
                self._outcomes[site].fail(f"refused: {error.message}")
        return complete

    def _sites_of(self, state: SplitState) -> list[str]:
        """The sites that a checkpoint was made with, whose samples are still the same."""
        for site, digest in state.samples.items():
            if self._store.digest(site) != digest:
                raise StorageError(
                    f"the samples of site '{site}' are not those that the checkpoint was made "
                    "with: files were deleted or replaced",
                    hint="restore the run folder, or start the run anew",
                )
        return list(state.samples)

    def _check_cohort(self, sites: list[str]) -> None:
        if not self._manifest.is_cohort(sites):
            self._report(0, {}, 0.0, traffic=True)
            raise too_few(self._manifest, self._outcomes, sites, "have sent their samples")

    def _report(
        self,
        number: int,
        found: Mapping[str, Evaluation],
        server: float,
        *,
        traffic: bool,
        event: type[Round] = Round,
        **trained: Any,
    ) -> None:
        """Report a round, with every site's outcome; ``server``: seconds of this enclave."""
        lines = {site: self._line(site, found.get(site), traffic=traffic) for site in self._sites}
        self._emit(
            event(
                round=number,
                **reported(self._manifest, lines),
                seconds=round(time.monotonic() - self._reported, 3),
                server_seconds=round(server, 3),
                **trained,
            )
        )
        self._reported = time.monotonic()

    def _line(self, site: str, found: Evaluation | None, *, traffic: bool) -> SiteOutcome:
        """A site's line; in between the first and the last round nothing is sent."""
        known, line = self._outcomes[site], SiteOutcome()
        if traffic:
            line.bytes_up, line.bytes_down = known.bytes_up, known.bytes_down
        if found is None or known.reason:
            reason = known.reason or "did not send all of its samples"
            line.fail(reason, late=known.outcome == "late")
            return line
        spent, self._uploads.seconds[site] = self._uploads.seconds[site], 0.0
        line.fields = {
            "examples": len(self._store.samples(site, "train")),
            "correct": found.correct,
            "total": found.total,
            "loss": found.loss,
            "seconds": {"enclave": round(spent, 3), "accelerator": 0.0, "pads": 0.0, "passes": 0.0},
        }
        line.succeed()
        return line
