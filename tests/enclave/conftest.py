"""Runs of many parties in one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealtune.job.plan import SlicePlan
from sealtune.job.spec import Job
from sealtune.plan import masked, planner, whole


@pytest.fixture(scope="session", autouse=True)
def _plans_are_made_once() -> Iterator[None]:
    """Every party of a job makes the same plan, each in a process of its own; here, the first does.

    What a plan follows from decides: settings, the model's files, and where backbones are kept.
    """
    made: dict[Any, SlicePlan] = {}
    whichever = planner._planner

    def planned(job: Job, num_labels: int | None, *, backbone: bool = True) -> SlicePlan:
        settings = job.model_dump_json(exclude={"data": {"train", "test"}})
        files = [(path, path.stat()) for path in sorted(Path(job.model.path).rglob("*"))]
        seen = tuple((path, stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in files)
        steady = (masked.steady_blocks, whole.steady_blocks)  # tests put others in their place
        key = (settings, num_labels, backbone, seen, os.environ.get("SEALTUNE_CACHE"), steady)
        if key not in made:
            made[key] = whichever(job).make_plan(job, num_labels, backbone=backbone)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "_planner", lambda _: SimpleNamespace(make_plan=planned))
        yield
