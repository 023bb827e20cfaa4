"""How often a site was asked to train in a job with a budget of privacy, on its own disk.

A round that was interrupted leaves nothing behind and is asked for again at no cost. But a server
whose operator puts older checkpoints back asks again, too, and draws other noise, which an average
over many such rounds would take out. So each site counts for itself, and trains a tenth more rounds
than the budget pays for, at least three, but no more.

Trust domain: client enclave. The file is the site's own; who loses it begins to count anew.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealtune.errors import PrivacyBudgetError, StorageError
from sealtune.job.storage import read_bounded, write_atomic

_LEAST_SPARE = 3
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
        allowed: rounds that the budget pays for.

    Attributes:
        rounds: trained so far, repeated ones included; ``most``: as many as there can be.

    Raises:
        StorageError: there is a file, and it is none of this job.
    """

    def __init__(self, path: Path, job_id: str, allowed: int) -> None:
        self._path, self._job_id, self._allowed = path, job_id, allowed
        self.most = allowed + max(_LEAST_SPARE, allowed // 10)
        self.rounds = self._read() if path.exists() else 0

    def count(self) -> None:
        """One round more, written down before it is trained.

        Raises:
            PrivacyBudgetError: it would be one too many.
            StorageError: it cannot be written.
        """
        if self.rounds >= self.most:
            raise PrivacyBudgetError(
                f"this site was asked for {self.rounds} rounds, and the budget of privacy pays for "
                f"{self._allowed}",
                hint="the server was interrupted too often, or went on from older checkpoints: "
                "build a new job, whose budget is agreed on",
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
