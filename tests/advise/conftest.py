from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealtune.advise.shape import Shape, read_shape
from sealtune.job.spec import Job
from tests.model.tiny import make_llama

BLOCKS = 4
CLASSES = 3


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of four blocks."""
    return make_llama(tmp_path_factory.mktemp("advise") / "model", blocks=BLOCKS)


def make_job(folder: Path | str, **sections: Any) -> Job:
    """A job on the model in ``folder``; sections replace or add."""
    value: dict[str, Any] = {
        "job": {"name": "advise"},
        "model": {"path": str(folder)},
        "data": {"train": "-", "test": "-"},
        "sites": {"names": ["north", "south"], "partition": "label"},
    }
    return Job.model_validate({**value, **sections})


@pytest.fixture(scope="session")
def shape(llama: Path) -> Shape:
    """It, with LoRA on every block and a classification head."""
    return read_shape(make_job(llama), CLASSES)
