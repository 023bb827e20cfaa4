"""What the launcher needs from ``job.resolved.json``.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealtune.errors import StorageError


@dataclass(frozen=True)
class JobFacts:
    """The part of a resolved job that says what to start.

    Attributes:
        path: the file.
        name: of the run.
        sites: their names.
        rounds: how many.
        seed: of the job.
        protect: level of protection; ``split`` for a split job.
        split: whether it is a split job: a large server enclave, no accelerator.
        job_id, plan_digest: hexadecimal.
    """

    path: Path
    name: str
    sites: tuple[str, ...]
    rounds: int
    seed: int
    protect: str
    split: bool
    job_id: str
    plan_digest: str

    @classmethod
    def read(cls, path: Path) -> JobFacts:
        """Read the file.

        Raises:
            StorageError: it is not there, or is not a resolved job.
        """
        try:
            document: dict[str, Any] = json.loads(path.read_bytes())
            job = document["job"]
            split = job["job"].get("method") == "split"
            return cls(
                path=path.resolve(),
                name=str(job["job"]["name"]),
                sites=tuple(str(site) for site in job["sites"]["names"]),
                rounds=int(job["job"]["rounds"]),
                seed=int(job["job"]["seed"]),
                protect="split" if split else str(job["protection"]["protect"]),
                split=split,
                job_id=str(document["job_id"]),
                plan_digest=str(document["plan_digest"]),
            )
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is not a resolved job: {error!r}") from error
