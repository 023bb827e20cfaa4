"""One set of hosts for all federated jobs here, and the same job on one machine, run once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.setting import Quick, consortium, job_values, run_on_one_machine


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """Run folder of the federated job on one machine."""
    return run_on_one_machine(tmp_path_factory.mktemp("alone"), llama, job_values())


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Iterator[Quick]:
    """Six hosts whose parties have made their cards, each on its own; every test begins anew."""
    with consortium(tmp_path_factory.mktemp("across"), llama, job_values()) as group:
        group.in_hosts = True
        group.describe()
        group.in_hosts = False
        yield group
