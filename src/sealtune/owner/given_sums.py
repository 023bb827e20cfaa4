"""Which sums of a job a site has given shares for: each is given once, also after a restart.

Of two sums with and without one site, the difference is that site's vector. The file alone says
which were given: other processes of the site may have given some since this one began.

Trust domain: data owner.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from sealtune.errors import SecureAggregationError
from sealtune.job.authenticated_file import OwnFiles
from sealtune.job.storage import locked


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    last: int = Field(ge=0)


class GivenSums:
    """A small file of the site's: the last sum of a job that it gave shares for.

    Args:
        files: the site's.
        job_id: of the job, in hex.

    Attributes:
        path: of the file.

    Raises:
        StorageError: it cannot be read, or is not as this site wrote it.
    """

    def __init__(self, files: OwnFiles, job_id: str) -> None:
        self._file = files.of_job(
            job_id,
            "sums",
            _Given,
            name="the record of the sums that this site gave shares for,",
            hint="put it back from a copy; without it, build and sign a new job",
        )
        self.path = self._file.path
        self._file.read()  # a damaged one is found before any work

    def check(self, number: int) -> None:
        """Raise SecureAggregationError if a sum of this number, or a later one, was given."""
        given = self._file.read()
        if given is not None and number <= given.last:
            raise SecureAggregationError(
                f"the server asks for sum {number}, and shares for sum {given.last} were given: a "
                "second sum of other sites would show what a single one added",
                hint="a run that was interrupted goes on with --resume; a new one needs a manifest "
                "of its own",
            )

    def note(self, number: int) -> None:
        """Shares for this sum are about to be given.

        Raises:
            SecureAggregationError: they were before.
            StorageError: the file cannot be written; they must not be given.
        """
        with locked(self.path):
            self.check(number)
            self._file.write(_Given(last=number))
