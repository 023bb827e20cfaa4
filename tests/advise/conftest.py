from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.advise.shape import Shape, read_shape
from tests.sample_job import make_job

BLOCKS = 4
CLASSES = 3


@pytest.fixture(scope="session")
def llama(deep_llama: Path) -> Path:
    """A tiny Llama of four blocks."""
    return deep_llama


@pytest.fixture(scope="session")
def shape(llama: Path) -> Shape:
    """It, with LoRA on every block and a classification head."""
    return read_shape(make_job(llama), CLASSES)
