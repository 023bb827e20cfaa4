"""Small jobs: texts in files, ``Job`` objects, job files. Every room's tests build on these.

make_job(model, train, test, tuning={"rank": 4})    a Job; what is not named has its default
write_job(folder, model, data={"max_tokens": 24})   job.toml and its data files in a folder
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sealtune.job.spec import Job
from tests.model.tiny import LABELS, make_texts

SITES = ("north", "south")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_texts(path: Path, count: int, seed: int) -> Path:
    """A jsonl file of labelled texts."""
    texts = make_texts(count, seed)
    return write_rows(path, [{"text": t.text, "label": LABELS[t.label or 0]} for t in texts])


def job_values(
    model: Path | str, train: Path | str = "-", test: Path | str = "-", /, **sections: Any
) -> dict[str, Any]:
    """The least that a job states, for two sites that share a file.

    Args:
        model: its folder.
        train: its data file.
        test: its data file.
        sections: a dictionary adds to what is there, or with None takes it away; anything else
            replaces it.
    """
    values: dict[str, Any] = {
        "job": {"name": "tiny"},
        "model": {"path": str(model)},
        "data": {"train": str(train), "test": str(test)},
        "sites": {"names": list(SITES), "partition": "dirichlet"},
    }
    for name, section in sections.items():
        if isinstance(section, Mapping):
            merged = {**values.get(name, {}), **section}
            values[name] = {key: value for key, value in merged.items() if value is not None}
        else:
            values[name] = section
    return values


def make_job(
    model: Path | str, train: Path | str = "-", test: Path | str = "-", /, **sections: Any
) -> Job:
    """A job of ``job_values``."""
    return Job.model_validate(job_values(model, train, test, **sections))


def write_job(
    folder: Path, model: Path | str, /, *, rows: tuple[int, int] = (60, 24), **sections: Any
) -> Path:
    """``job.toml`` in ``folder``, beside ``train.jsonl`` and ``test.jsonl`` of so many texts."""
    write_texts(folder / "train.jsonl", rows[0], 1)
    write_texts(folder / "test.jsonl", rows[1], 2)
    values = job_values(model, "train.jsonl", "test.jsonl", **sections)
    path = folder / "job.toml"
    path.write_text(as_toml(values))
    return path


def as_toml(values: Mapping[str, Mapping[str, Any]]) -> str:
    """A job file of these sections."""
    return "".join(f"[{name}]\n{_lines(keys)}" for name, keys in values.items())


def _lines(keys: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)
