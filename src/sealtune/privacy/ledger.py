"""Rounds that count towards the budget of privacy, as a site counts them on its own disk.

A server that goes on from an older checkpoint asks for rounds again, whose noise is drawn anew; an
average of enough of them takes the noise out. So each site counts what it is asked for itself, and
after as many rounds as the budget allows, it trains no more.

Trust domain: client enclave. The file is the site's own; who loses it begins to count anew.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealtune.errors import PrivacyBudgetError, StorageError
from sealtune.job.storage import read_bounded, write_atomic

_MAX_BYTES = 1 << 12


class _Counted(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    job_id: str = Field(max_length=96)
    rounds: int = Field(ge=0)


class SiteLedger:
    """The count of one site in one job.

    Args:
        path: its file; made with the first round.
        job_id: of the job.
        allowed: rounds that the budget allows.

    Raises:
        StorageError: there is a file, and it is none of this job.
    """

    def __init__(self, path: Path, job_id: str, allowed: int) -> None:
        self._path, self._job_id, self._allowed = path, job_id, allowed
        self.rounds = self._read() if path.exists() else 0

    def count(self) -> None:
        """One round more, written down before it is trained.

        Raises:
            PrivacyBudgetError: it would be one too many.
            StorageError: it cannot be written.
        """
        if self.rounds >= self._allowed:
            raise PrivacyBudgetError(
                f"this site has trained {self.rounds} rounds, and the budget of privacy allows "
                f"{self._allowed}",
                hint="a server that asks for more went on from an older checkpoint, or starts the "
                "job once more: build a new job, whose budget is agreed on",
            )
        self.rounds += 1
        counted = _Counted(job_id=self._job_id, rounds=self.rounds)
        write_atomic(self._path, counted.model_dump_json().encode() + b"\n")

    def _read(self) -> int:
        def failure(words: str) -> StorageError:
            return StorageError(
                f"{self._path} {words}",
                hint="it counts the rounds of a job with differential privacy: put it back from a "
                "copy, or start the run anew",
            )

        try:
            counted = _Counted.model_validate_json(read_bounded(self._path, _MAX_BYTES, failure))
        except ValidationError as error:
            raise failure("is damaged") from error
        if counted.job_id != self._job_id:
            raise failure("is of another job")
        return counted.rounds
