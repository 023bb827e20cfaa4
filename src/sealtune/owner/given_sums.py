"""Which sums of a job a site has given shares for: each is given once, also after a restart.

Of two sums with and without one site, the difference is that site's vector. The file alone says
which were given: other processes of the site may have given some since this one began.

Trust domain: data owner.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sealtune.errors import SecureAggregationError, StorageError
from sealtune.job.storage import locked, read_bounded, write_atomic

_LONGEST = 1 << 20  # bytes
_FORM = TypeAdapter(dict[str, int])


class GivenSums:
    """A small file of the site's: job -> the last sum that it gave shares for.

    Args:
        path: of the file.
        job_id: of the job, in hex.

    Raises:
        StorageError: it cannot be read.
    """

    def __init__(self, path: Path, job_id: str) -> None:
        self._path = path
        self._job_id = job_id
        self._read()  # a damaged one is found before any work

    def check(self, number: int) -> None:
        """Raise SecureAggregationError if a sum of this number, or a later one, was given."""
        last = self._read().get(self._job_id, -1)
        if number <= last:
            raise SecureAggregationError(
                f"the server asks for sum {number}, and shares for sum {last} were given: a second "
                "sum of other sites would show what a single one added",
                hint="a run that was interrupted goes on with --resume; a new one needs a manifest "
                "of its own",
            )

    def note(self, number: int) -> None:
        """Shares for this sum are about to be given.

        Raises:
            SecureAggregationError: they were before.
            StorageError: the file cannot be written; they must not be given.
        """
        with locked(self._path):
            self.check(number)
            last = {**self._read(), self._job_id: number}
            write_atomic(self._path, json.dumps(last).encode() + b"\n")

    def _read(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        data = read_bounded(self._path, _LONGEST, lambda said: StorageError(f"{self._path} {said}"))
        try:
            return _FORM.validate_json(data)
        except ValidationError as error:
            raise StorageError(
                f"{self._path} is damaged: it says which sums this site gave shares for",
                hint="without it the site cannot go on with this job: build and sign a new one",
            ) from error
