"""Which sums of a job a site has given shares for: each is given once, also after a restart.

Of two sums with and without one site, the difference is that site's vector.

Trust domain: data owner.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sealtune.errors import SecureAggregationError, StorageError
from sealtune.job.storage import read_bounded, write_atomic

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
        self._last = self._read() if path.exists() else {}

    def check(self, number: int) -> None:
        """Raise SecureAggregationError if a sum of this number, or a later one, was given."""
        last = self._last.get(self._job_id, -1)
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
        self.check(number)
        last = {**self._last, self._job_id: number}
        write_atomic(self._path, json.dumps(last).encode() + b"\n")
        self._last = last

    def _read(self) -> dict[str, int]:
        data = read_bounded(self._path, _LONGEST, lambda said: StorageError(f"{self._path} {said}"))
        try:
            return _FORM.validate_json(data)
        except ValidationError as error:
            raise StorageError(
                f"{self._path} is damaged: it says which sums this site gave shares for",
                hint="without it the site cannot go on with this job: build and sign a new one",
            ) from error
