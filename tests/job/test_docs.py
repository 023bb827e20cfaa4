"""docs/job-file.md and the example say what the models say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from sealtune.job.describe import describe, sections
from sealtune.job.job_file import JobFile
from sealtune.job.load import load_job
from sealtune.job.reference import with_tables
from sealtune.job.sections import Section

ROOT = Path(__file__).parents[2]


def models(model: type[Section] = JobFile, prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Section, or table in a section, and its model."""
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield f"{prefix}{name}", kind
                yield from models(kind, f"{prefix}{name}.")


def test_the_reference_is_what_the_models_say() -> None:
    text = (ROOT / "docs" / "job-file.md").read_text()
    assert with_tables(text) == text, "run: make docs"


def test_every_key_stands_in_it() -> None:
    assert sections() == {name: tuple(model.model_fields) for name, model in models()}


def test_a_changed_text_or_bound_is_noticed() -> None:
    text = (ROOT / "docs" / "job-file.md").read_text()
    for old, new in (("Rows in a step.", "Rows."), ("from 1 to 1024", "from 1 to 512")):
        assert with_tables(text.replace(old, new)) == text
    with pytest.raises(SystemExit, match="network"):
        with_tables(text.replace("## `[network]`", "## Network"))


def test_only_tables_are_called_sections() -> None:
    for name, model in models():
        for key in model.model_fields:
            words = describe([*name.split("."), key])
            assert ("a section" in words) == (f"{name}.{key}" in dict(models())), (name, key)


@pytest.mark.parametrize("block", range(3))
def test_examples_in_the_reference_load(tmp_path: Path, block: int) -> None:
    text = (ROOT / "docs" / "job-file.md").read_text()
    found = re.findall(r"^```toml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    path = tmp_path / "job.toml"
    path.write_text(found[block])
    load_job(path)


def test_example_job_loads() -> None:
    job = load_job(ROOT / "examples" / "icd10.toml")
    assert job.protection.protect == "adapter+data"
    assert job.data.train == ROOT / "demo" / "data" / "icd10" / "train.jsonl"
    assert job.model.path == str(ROOT / "demo" / "model")
