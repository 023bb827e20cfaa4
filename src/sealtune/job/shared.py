"""Read a ``job.toml`` that goes round among organisations: it may leave everybody's places out.

    job = load_shared(path, "north", model=ModelPlace(...), data=DataPlace(...))

Trust domain: a participant's own machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sealtune.errors import ConfigError, Problem
from sealtune.job.job_file import JobFile
from sealtune.job.load import file_fault, job_of, model_faults, read_toml
from sealtune.job.local import DataPlace, ModelPlace

NOWHERE = "-"  # where others' files are, and a model that nobody needs here


def load_shared(
    path: Path,
    site: str | None = None,
    *,
    model: ModelPlace | None = None,
    data: DataPlace | None = None,
    holds_model: bool = True,
) -> JobFile:
    """The job in ``path`` with one party's places, which count before those in the file.

    Every site has files of its own; of others' none is looked at, and none is known.

    Args:
        path: the job file.
        site: whose data lies here; None: nobody's.
        model: where the base model lies here, absolute.
        data: where the site's data lies here, absolute.
        holds_model: whether the model has to be here.

    Raises:
        ConfigError: faults of the file, or places that neither names, or where nothing is.
    """
    raw = read_toml(path)
    problems = _sections(raw)
    if problems:
        raise ConfigError(str(path), problems)
    names = _names(raw)
    if site is not None and site not in names:
        words = f"there is no site '{site}'; the job has {', '.join(names) or 'none'}"
        problems.append(Problem("sites.names", words))
    own = raw.setdefault("model", {})
    if model is not None:
        own |= {"path": model.path}
        own.pop("revision", None)
        own |= {} if model.revision is None else {"revision": model.revision}
    elif "path" not in own:
        own["path"] = NOWHERE
        if holds_model:
            words = "is nowhere: give the folder of the base model here with --model"
            problems.append(Problem("model.path", words))
    files = raw.setdefault("data", {})
    for part in ("train", "test"):
        there = files.get(part, {})
        if not isinstance(there, dict):
            words = "is one pooled file; across organisations each site has files of its own"
            problems.append(Problem(f"data.{part}", words))
            there = {}
        mine = {site: str(getattr(data, part))} if site in names and data else {}
        if site in names and site not in there | mine:
            words = f"is nowhere: give the site's file here with --{part}"
            problems.append(Problem(f"data.{part}.{site}", words))
        files[part] = dict.fromkeys(names, NOWHERE) | there | mine
    job = job_of(raw, path, problems)
    if faults := _absent(job, site, holds_model):
        raise ConfigError(str(path), faults)
    return job


def _absent(job: JobFile, site: str | None, holds_model: bool) -> list[Problem]:
    """Own files that are not where they are said to be."""
    problems = []
    for part in ("train", "test"):
        files = getattr(job.data, part)
        if site is not None and (fault := file_fault(files[site])):
            problems.append(Problem(f"data.{part}.{site}", fault))
    if holds_model and Path(job.model.path).is_absolute():
        problems += model_faults(Path(job.model.path))
    return problems


def _sections(raw: dict[str, Any]) -> list[Problem]:
    return [
        Problem(name, f"should be a section, [{name}]")
        for name in ("model", "data", "sites")
        if not isinstance(raw.get(name, {}), dict)
    ]


def _names(raw: dict[str, Any]) -> list[str]:
    names = raw.get("sites", {}).get("names", [])
    if not isinstance(names, list):
        return []
    return [name for name in names if isinstance(name, str)]
