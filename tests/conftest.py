"""What every room's tests have: tiny models, one thread, and no folder of the person who tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """See ``tests.groups``; alone, tests run in the order of their files."""
    if hasattr(config, "workerinput"):
        from tests.groups import longest_first

        longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """See ``tests.groups``."""
    from tests.groups import Groups

    return Groups(config, log)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    if torch := sys.modules.get("torch"):  # imported already by whatever test uses it
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys, caches and int8 backbones of tests lie among their temporary files."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(base / "data-home"))
        patch.setenv("XDG_STATE_HOME", str(base / "state-home"))
        patch.setenv("SEALTUNE_CACHE", str(base / "cache"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """No test takes the power away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of two blocks with its tokenizer; not to be written to."""
    from tests.model.tiny import make_llama

    return make_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="session")
def deep_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with four blocks."""
    from tests.model.tiny import make_llama

    return make_llama(tmp_path_factory.mktemp("llama") / "deep", blocks=4)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with the same tokenizer; not to be written to."""
    from tests.model.tiny import make_gpt2

    return make_gpt2(tmp_path_factory.mktemp("gpt2") / "model")


@pytest.fixture
def float64() -> Iterator[None]:
    """See ``tests.float64``."""
    from tests.float64 import in_float64

    with in_float64():
        yield
