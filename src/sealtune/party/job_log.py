"""The jobs in which a site took part, remembered on its own machine, so that nobody can subtract.

Two results of the same training, one with and one without a hospital, differ by that hospital's
part, and whoever holds both has it. So each site refuses a job whose result would differ from that
of an earlier one by fewer organisations than either lets into an aggregate:

    log = own_log(manifest, identity, own_files(...))
    log.check()            # at admission
    log.take_part(round)   # before an update leaves: on record first
    log.mark_released()

The file is authenticated: nobody else can change it unseen.

Trust domain: client enclave (federated); data owner (split, secure aggregation).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sealtune.errors import DifferenceReleaseError, StorageError
from sealtune.job.authenticated_file import AuthenticatedFile, OwnFiles
from sealtune.job.manifest import TIME, Manifest
from sealtune.job.storage import locked
from sealtune.party.difference import Part, Training, differing, may_differ_by, training_of

MAX_JOBS = 1000
MAX_BYTES = 1 << 24
_INFO = b"sealtune/job-log/v1/"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Entry(_Strict):
    """A job in which this site took part.

    Attributes:
        job: its id.
        time: when this site's first part left.
        training: what decides which other jobs it can be compared with, and whose data went in.
        done: the last round for which a part of this site left.
        released: whether this site got the result.
    """

    job: str
    time: str
    training: Training
    done: int = Field(ge=1)
    released: bool = False

    @property
    def may_be_out(self) -> bool:
        """Whether somebody may have the result: not of a job that broke off before."""
        return self.released or self.done >= self.training.out_after


class _Jobs(_Strict):
    format: int = Field(ge=1, le=1)
    jobs: tuple[Entry, ...] = Field(max_length=MAX_JOBS)


class JobLog:
    """One organisation's jobs on one machine.

    Args:
        path: the file; one that is not there is empty.
        secret: only this site has it.
        manifest: of the job that is to be run.
        identity: its id.
        organisation: public key (64 hex digits) of the organisation whose log it is.
    """

    def __init__(
        self, path: Path, secret: bytes, manifest: Manifest, identity: str, organisation: str
    ) -> None:
        self.path = path
        self._file = AuthenticatedFile(
            path,
            secret,
            _INFO + bytes.fromhex(organisation),
            _Jobs,
            name="the log of this site's jobs",
            limit=MAX_BYTES,
            hint="put it back from a copy. If you know why the key is another (an update of "
            "sealtune or of the firmware changes an enclave's), move it away: its jobs are then "
            "not compared with later ones any more",
        )
        self._manifest = manifest
        self._identity = identity
        self._training = training_of(manifest)

    def check(self, *, anew: bool = False) -> None:
        """Whether this site may take part, beside all jobs in which it did before.

        Args:
            anew: the job begins with its first round, and does not go on.

        Raises:
            DifferenceReleaseError: two results would differ by too few organisations' part.
            StorageError: the file was altered, cut or replaced, or cannot be read.
        """
        for entry in self._read():
            if entry.job != self._identity and entry.may_be_out:
                self._compare(entry)
            if entry.job == self._identity and anew:
                self._check_repeat(entry, 1)

    def take_part(self, round_: int) -> None:
        """Put on record, before it leaves, that this site's part of ``round_`` goes in.

        Raises:
            DifferenceReleaseError: see ``check``; or the rounds of a finished job are asked for
                again, of which another set of sites could be made to answer.
            StorageError: see ``check``; or it cannot be written, or is full.
        """
        with locked(self.path):  # an organisation's sites on one machine share it
            self.check()  # in every round: another job may have ended since the last one
            entries = self._read()
            own = next((entry for entry in entries if entry.job == self._identity), None)
            if own is None:
                if len(entries) >= MAX_JOBS:
                    raise StorageError(
                        f"{self.path} holds {MAX_JOBS} jobs: there is room for no more",
                        hint="move it away: its jobs are not compared with later ones any more",
                    )
                now = datetime.now(UTC).strftime(TIME)
                entries.append(
                    Entry(job=self._identity, time=now, training=self._training, done=round_)
                )
            else:
                self._check_repeat(own, round_)
                again = own.model_copy(update={"done": max(own.done, round_)})
                entries[entries.index(own)] = again
            self._write(entries)

    def mark_released(self) -> None:
        """Put on record that this site has the result.

        Raises:
            StorageError: as for ``take_part``.
        """
        with locked(self.path):
            entries = self._read()
            for number, entry in enumerate(entries):
                if entry.job == self._identity and not entry.released:
                    entries[number] = entry.model_copy(update={"released": True})
                    self._write(entries)

    def _compare(self, entry: Entry) -> None:
        mine, before = self._training, entry.training
        if not mine.is_like(before):
            return
        odd = differing(mine, before)
        least, away = may_differ_by(odd), mine.spare + before.spare
        cohort = max(mine.cohort, before.cohort)
        if cohort == 1 or least - away >= cohort or not (least or away):
            return
        possible = odd if not away else [*odd, *before.parts]
        if self._let_through(possible):
            return
        names = ", ".join(dict.fromkeys(part.org for part in odd))
        by = f"the part of {names} alone" if names else "the part of a site that is away"
        may = f", and {away} sites may be away" if away and names else ""
        raise DifferenceReleaseError(
            f"job {entry.job[:12]} of {entry.time}, in which this site took part, and this one "
            f"differ by {by}{may}: whoever has both results can subtract them; at least {cohort} "
            "organisations must differ, or none",
            hint="run it with the same organisations, data and all sites, or with as many that "
            "differ; [privacy] insecure_difference_releases lets it through if all whose part "
            "would show sign it (docs/manifest.md)",
        )

    def _check_repeat(self, own: Entry, round_: int) -> None:
        """Where all that are asked are needed, a repeat gives the same; otherwise maybe another."""
        settings, over = self._manifest.settings, own.done >= self._manifest.rounds
        away = settings.asked - settings.quorum
        if not away or self._training.cohort == 1:
            return
        if (own.released or (over and round_ < own.done)) and not self._let_through(
            list(own.training.parts)
        ):
            raise DifferenceReleaseError(
                f"this site took part in this very job on {own.time}, to its end; run again, it "
                f"could do without {away} of the sites, and the two results would differ by their "
                "part",
                hint="keep the result that is there, or build and sign a job without "
                "network.min_sites",
            )

    def _let_through(self, shown: list[Part]) -> bool:
        """Whether all whose part may show have signed that it may."""
        signed = {one.key for one in self._manifest.participants}
        agreed = self._manifest.settings.privacy.insecure_difference_releases
        return agreed and all(part.key in signed for part in shown)

    def _read(self) -> list[Entry]:
        kept = self._file.read()
        return list(kept.jobs) if kept else []

    def _write(self, entries: list[Entry]) -> None:
        self._file.write(_Jobs(format=1, jobs=tuple(entries)))


def own_log(manifest: Manifest, identity: str, files: OwnFiles) -> JobLog:
    """The log of a site.

    Args:
        identity: id of the job.
        files: the site's.
    """
    return JobLog(files.log, files.secret, manifest, identity, files.organisation)
