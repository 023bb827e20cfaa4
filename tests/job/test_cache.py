"""Where things that can be made again are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealtune.job.cache import cache_folder


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SEALTUNE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "sealtune"
    monkeypatch.setenv("SEALTUNE_CACHE", "~/x")
    assert cache_folder() == tmp_path / "x"
