"""How often a site was asked to train in a job with a budget of privacy, on its own disk.

A site follows no server that went back (``party.continuity``), so no finished round is noised
anew. The one that is under way may be: its server died, or its operator let it die, before the
sites were told of its end. Each time it gets other noise, which an average of many would take out.
So each site counts for itself, and trains a tenth more rounds than the budget pays for, at least
three, but no more.

Trust domain: client enclave. The file is the site's own; who loses it begins to count anew.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sealtune.errors import PrivacyBudgetError
from sealtune.job.authenticated_file import OwnFiles
from sealtune.job.storage import locked

_LEAST_SPARE = 3


class _Counted(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rounds: int = Field(ge=0)


class SiteLedger:
    """The count of one site in one job.

    Args:
        files: the site's.
        job_id: of the job, in hex.
        allowed: rounds that the budget pays for.

    Attributes:
        most: as many rounds as the site trains, repeated ones included.

    Raises:
        StorageError: there is a file, and it is not as this site wrote it.
    """

    def __init__(self, files: OwnFiles, job_id: str, allowed: int) -> None:
        self._file = files.of_job(
            job_id,
            "rounds",
            _Counted,
            name="the count of this job's rounds with differential privacy,",
            hint="put it back from a copy; without it, build and sign a new job",
        )
        self._allowed = allowed
        self.most = allowed + max(_LEAST_SPARE, allowed // 10)
        self._file.read()  # a damaged one is found before any work

    @property
    def rounds(self) -> int:
        """Trained so far, repeated ones included."""
        counted = self._file.read()
        return counted.rounds if counted else 0

    def count(self) -> None:
        """One round more, written down before it is trained.

        Raises:
            PrivacyBudgetError: it would be one too many.
            StorageError: it cannot be written.
        """
        with locked(self._file.path):
            trained = self.rounds
            if trained >= self.most:
                raise PrivacyBudgetError(
                    f"this site was asked for {trained} rounds, and the budget of privacy pays "
                    f"for {self._allowed}",
                    hint="the server was interrupted too often: build a new job, whose budget is "
                    "agreed on",
                )
            self._file.write(_Counted(rounds=trained + 1))
