"""The same tiny model and private folders as the enclaves' tests."""

from __future__ import annotations

from tests.enclave.conftest import _one_thread, _own_folders, llama

__all__ = ["_one_thread", "_own_folders", "llama"]
