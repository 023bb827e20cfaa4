"""The server enclave of a split job: collects the sites' samples, tunes the top on all of them.

    upload   each site's chunks, asked for one after another; an upload that broke off goes on
    train    round after round, no message to anybody; a checkpoint after each
    release  the adapter to every site, if the manifest says so

Trust domain: server enclave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from sealtune.enclave.events import Emit
from sealtune.enclave.farewell import farewell
from sealtune.enclave.round_state import Entry
from sealtune.enclave.sample_store import SampleStore
from sealtune.enclave.sealed_state import SealedState
from sealtune.enclave.server_program import ServerProgram
from sealtune.enclave.site_link import SiteLink
from sealtune.enclave.split_progress import progress, read_progress
from sealtune.enclave.top_trainer import TopTrainer
from sealtune.enclave.trust import Trust
from sealtune.enclave.upload import Upload, check_complete, check_progress, read_upload
from sealtune.errors import ChannelError, DataError, StorageError
from sealtune.frames import Frame, is_count
from sealtune.job.resolved import Resolved
from sealtune.model.cut_chunk import CHUNK, Layout
from sealtune.model.training import Evaluation

_SLACK = 64 << 20  # bytes: one long sample more, lengths, labels and token ids
_PATIENCE = 3  # messages in a row that a site may lose before the job goes on without it


class SplitProgram(ServerProgram):
    """The split trainer of one run.

    Args:
        resolved: the job.
        trust: for each site, own evidence and what is accepted of it.
        store: where samples go.
        state: where checkpoints go.
        trainer: model and optimizer.
        layout: what the job's samples look like.
        emit: gets progress events.
        resume: go on after the checkpoint, and with the chunks that are there.
    """

    def __init__(
        self,
        resolved: Resolved,
        trust: Mapping[str, Trust],
        store: SampleStore,
        state: SealedState,
        trainer: TopTrainer,
        layout: Layout,
        emit: Emit,
        *,
        resume: bool,
    ) -> None:
        job_id = bytes.fromhex(resolved.job_id)
        names = resolved.job.sites.names
        super().__init__(
            resolved,
            {site: SiteLink(site, job_id, trust[site], emit) for site in names},
            answer_limit=CHUNK + layout.max_tokens * layout.token_bytes + _SLACK,
        )
        self._resolved = resolved
        self._store = store
        self._state = state
        self._trainer = trainer
        self._layout = layout
        self._emit = emit
        self._rounds = resolved.job.job.rounds
        self._uploads = {site: Upload() for site in names}
        checkpoint = state.load() if resume else None
        self._round: int | None = None if checkpoint is None else checkpoint.round
        # whose samples are trained on, and their digests
        self._used: dict[str, str] = {}
        self._saved = b""
        if checkpoint is not None:
            self._used, self._saved = read_progress(checkpoint)
        if resume:
            for site, upload in self._uploads.items():
                upload.of = store.resume(site)
        self._training = False  # whether the top is loaded
        self._final: dict[str, Evaluation] | None = None  # once the last round is over
        self._loading = 0.0  # seconds that the top took to load, not yet reported
        self._ending = 0.0  # seconds that the end of the training took
        self._farewell: list[Frame] = []  # what every site is told then, part after part
        self._closed = False
        self._started = time.monotonic()

    def next(self) -> dict[str, bytes] | None:
        """Messages to send now, or None when the job is done.

        Raises:
            SiteLostError: fewer sites have sent their samples than the job asks for.
            ModelError: training went wrong.
            StorageError: samples or the checkpoint cannot be read or written.
        """
        self._settle()
        if not self._training:
            missing = [site for site in self._links if self._is_wanted(site)]
            if missing and self._round is None:
                return self._send({site: self._chunk_question(site) for site in missing}, 0)
            self._begin_training()
            return {}
        if self._round is None or self._round < self._rounds:
            self._next_round()
            return {}
        if self._final is None:
            self._end_training()
        left = [site for site in self._used if not self._is_told(site)]
        if left:
            parts = {site: self._farewell[self._uploads[site].have] for site in left}
            return self._send(parts, self._rounds)
        if not self._closed:
            self._emit_round(self._rounds, self._final or {}, self._ending, last=True)
            self._closed = True
        return None

    def absent(self, site: str, reason: str) -> None:
        """A site that is away for a while may go on where it was when it is back."""
        super().absent(site, reason)
        upload = self._uploads[site]
        upload.lost_in_a_row += 1
        if upload.lost_in_a_row < _PATIENCE:
            self._entries[site].reason = ""

    def _is_wanted(self, site: str) -> bool:
        """Whether a site has chunks to send, and is there to send them."""
        upload = self._uploads[site]
        complete = upload.of is not None and self._store.chunks(site) >= upload.of
        return not complete and not self._entries[site].reason

    def _is_told(self, site: str) -> bool:
        """Whether a site has heard of the end, or cannot."""
        entry = self._entries[site]
        return entry.outcome == "ok" or bool(entry.reason)

    def _chunk_question(self, site: str) -> Frame:
        return Frame("upload", {"round": 0, "chunk": self._store.chunks(site)})

    def _read_answer(self, site: str, answer: Frame) -> Callable[[], None]:
        if self._training:
            return self._read_received(site, answer)
        upload, signed = self._uploads[site], self._manifest.data[site]
        number = self._store.chunks(site)
        try:
            chunk, of, seconds = read_upload(
                answer, number, upload.of, self._resolved, self._layout
            )
            check_progress(chunk, self._store.counts(site), signed, last=number + 1 == of)
        except DataError:
            self._drop(site)
            raise

        def accept() -> None:
            self._store.add(site, chunk, of=of)
            upload.of, upload.seconds = of, upload.seconds + seconds
            upload.lost_in_a_row = 0
            sent = self._store.chunks(site)
            self._emit("upload", site=site, chunk=sent, of=of, bytes=self._entries[site].bytes_up)

        return accept

    def _read_received(self, site: str, answer: Frame) -> Callable[[], None]:
        """A site says how many parts of the farewell it has; a restarted one has none."""
        have = answer.meta.get("have")
        if answer.kind != "received" or not is_count(have):
            raise ChannelError(f"answered the end with {answer.kind[:40]!r}")
        if have > len(self._farewell):
            raise ChannelError(f"has {have} of {len(self._farewell)} parts of the end")
        upload = self._uploads[site]
        setbacks = upload.setbacks + (have <= upload.have)
        if setbacks >= _PATIENCE:
            raise ChannelError("asks for the same part again and again")

        def accept() -> None:
            upload.lost_in_a_row, upload.setbacks, upload.have = 0, setbacks, have
            if have == len(self._farewell):
                self._entries[site].succeed({})

        return accept

    def _drop(self, site: str) -> None:
        """Nothing of a site that sends nonsense is trained on."""
        self._store.drop(site)
        self._uploads[site].of = None

    def _begin_training(self) -> None:
        if self._round is None:
            sites = [site for site in self._links if self._is_complete(site)]
        else:
            sites = list(self._used)
            self._check_unchanged()
        if not self._manifest.is_cohort(sites):
            for site, upload in self._uploads.items():
                if site not in sites and not self._entries[site].reason:
                    sent = self._store.chunks(site)
                    self._entries[site].fail(f"sent {sent} of {upload.of or '?'} chunks")
            self._emit_round(0, {}, 0.0)
            self._check_cohort(sites, "have sent their samples")
        begun = time.monotonic()
        self._used = {site: self._store.digest(site) for site in sites}
        self._trainer.begin(sites, self._saved)
        self._training = True
        self._loading = time.monotonic() - begun

    def _is_complete(self, site: str) -> bool:
        """Whether all that was signed of a site is here; what is wrong goes, and is said."""
        if self._uploads[site].of != self._store.chunks(site):
            return False
        try:
            check_complete(self._store.counts(site), self._manifest.data[site])
        except DataError as error:
            self._drop(site)
            self._entries[site].fail(f"refused: {error.message}")
            return False
        return True

    def _check_unchanged(self) -> None:
        """The samples are those that the checkpoint was made with."""
        for site, digest in self._used.items():
            if self._store.digest(site) != digest:
                raise StorageError(
                    f"the samples of site '{site}' are not those that the checkpoint was made "
                    "with: files were deleted or replaced",
                    hint="restore the run folder, or start the run anew",
                )

    def _next_round(self) -> None:
        """Test before the first round; then train a round, test, keep."""
        begun = time.monotonic()
        number = 0 if self._round is None else self._round + 1
        trained: dict[str, Any] = {}
        if number:
            result = self._trainer.train(number)
            # the training code refuses to go on otherwise
            trained = {"train_loss": result.train_loss, "trained_moved": True}
            trained["frozen_unchanged"] = True
        found = self._trainer.test(number)
        spent, self._loading = time.monotonic() - begun + self._loading, 0.0
        self._emit_round(number, found, spent, **trained)
        self._state.save(progress(number, self._used, self._trainer.save()))
        self._round = number

    def _emit_round(
        self,
        number: int,
        found: Mapping[str, Evaluation],
        server: float,
        *,
        last: bool = False,
        **trained: Any,
    ) -> None:
        """Report a round, with every site's outcome."""
        traffic = number == 0 or last  # between them nothing is sent
        entries = {site: self._round_entry(site, found, traffic=traffic) for site in self._links}
        event = {
            "round": number,
            "sites": {site: entry.public() for site, entry in entries.items()},
            "seconds": round(time.monotonic() - self._started, 3),
            "server_seconds": round(server, 3),
            **trained,
        }
        self._emit("final" if last else "round", **event)
        self._started = time.monotonic()

    def _round_entry(self, site: str, found: Mapping[str, Evaluation], *, traffic: bool) -> Entry:
        known, upload = self._entries[site], self._uploads[site]
        entry = Entry(reason="")
        if traffic:
            entry.bytes_up, entry.bytes_down = known.bytes_up, known.bytes_down
        if site in found and not known.reason:
            result = found[site]
            spent, upload.seconds = upload.seconds, 0.0
            entry.succeed(
                {
                    "examples": len(self._store.samples(site, "train")),
                    "correct": result.correct,
                    "total": result.total,
                    "loss": result.loss,
                    "seconds": {"enclave": round(spent, 3), "accelerator": 0.0, "pads": 0.0},
                }
            )
        else:
            late = known.outcome == "late"
            entry.fail(known.reason or "did not send all of its samples", late=late)
        return entry

    def _end_training(self) -> None:
        """Export, test for the last time, and get the farewell ready."""
        begun = time.monotonic()
        files = self._trainer.export()
        self._final = self._trainer.test(self._rounds)
        self._ending = time.monotonic() - begun
        released = self._resolved.manifest.release == "participants"
        self._farewell = farewell(files if released else {}, self._rounds)
        lost = {site: e for site, e in self._entries.items() if site not in self._used}
        self._entries = self._fresh_entries()
        for site, entry in lost.items():
            self._entries[site].fail(entry.reason, late=entry.outcome == "late")
        for site, link in self._links.items():
            link.drop()  # both sides prove themselves anew
            self._uploads[site].lost_in_a_row = 0
