"""docs/job-file.md and the example say what the models say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from sealtune.job.load import load_job
from sealtune.job.spec import Job, Section

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)


def documented() -> dict[str, dict[str, str]]:
    """Section -> key -> the text of its column "default"."""
    text = (ROOT / "docs" / "job-file.md").read_text()
    sections = re.split(r"^## `\[([\w.]+)\]`.*$", text, flags=re.MULTILINE)[1:]
    return {
        name: {row[0]: row[2] for row in ROW.findall(body)}
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


def models() -> dict[str, Any]:
    """Section, or table in a section, -> its model."""
    found: dict[str, Any] = {}

    def look(prefix: str, model: Any) -> None:
        for name, field in model.model_fields.items():
            kinds = [field.annotation, *get_args(field.annotation)]
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, Section):
                    found[f"{prefix}{name}"] = kind
                    look(f"{prefix}{name}.", kind)

    look("", Job)
    return found


def test_every_section_and_key_is_documented_in_order() -> None:
    expected = {name: list(model.model_fields) for name, model in models().items()}
    assert {name: list(keys) for name, keys in documented().items()} == expected


@pytest.mark.parametrize("section", list(models()))
def test_defaults_are_the_documented_ones(section: str) -> None:
    for key, field in models()[section].model_fields.items():
        said = documented()[section][key]
        if field.is_required():
            assert said == "required", f"{section}.{key}"
        elif field.default is None:
            assert not said.startswith("`"), f"{section}.{key}: {said}"
        else:
            value = list(field.default) if isinstance(field.default, tuple) else field.default
            assert said == f"`{json.dumps(value)}`", f"{section}.{key}"


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
