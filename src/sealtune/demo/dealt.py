"""A job with pooled files as one of sites that have files of their own.

Trust domain: operator, before a run.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from sealtune.data.site import load_sites
from sealtune.job.load import load_job


def deal_out(job_file: Path, folder: Path) -> dict[str, dict[str, Path]]:
    """Write each site's rows of a job with pooled files to files of its own.

    Returns:
        site -> ``train`` and ``test`` -> file.
    """
    job = load_job(job_file)
    pooled = {"train": job.data.train, "test": job.data.test}
    lines = {
        part: path.read_text(encoding="utf-8").splitlines(keepends=True)
        for part, path in pooled.items()
        if isinstance(path, Path)
    }
    folder.mkdir(parents=True)
    files: dict[str, dict[str, Path]] = {}
    for name, rows in load_sites(job).items():
        for part, examples in (("train", rows.train), ("test", rows.test)):
            path = folder / f"{name}-{part}.jsonl"
            own = "".join(lines[part][example.row - 1] for example in examples)
            path.write_text(own, encoding="utf-8")
            files.setdefault(name, {})[part] = path
    return files


def job_text(job_file: Path, *, name: str, rounds: int, steps: int) -> str:
    """The same job as a file that goes round between sites: it names no place.

    Args:
        name: of the job.
        rounds: in place of the file's.
        steps: in each round.
    """
    with job_file.open("rb") as file:
        values: dict[str, Any] = tomllib.load(file)
    for section, key in (
        ("model", "path"),
        ("data", "train"),
        ("data", "test"),
        ("data", "max_train_rows"),
        ("data", "max_test_rows"),
        ("sites", "partition"),
        ("sites", "alpha"),
        ("aggregation", "personal_steps"),
    ):
        values.get(section, {}).pop(key, None)
    values["job"] |= {"name": name, "rounds": rounds}
    values["train"]["steps_per_round"] = steps
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for section, keys in values.items()
        if keys
    )
