"""The configuration of the engine's programs: what is not as it should be is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sealtune.errors import FederationError
from sealtune.federation.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    values = {"text": "x", "empty": "", "port": 80, "flag": True, "zero": 0, "high": 65536}
    path = tmp_path / "relay.json"
    path.write_text(json.dumps({**values, "paths": {"a": "/b"}, "numbers": {"a": 1}}))
    return Settings(path)


def test_what_is_as_it_should_be(settings: Settings) -> None:
    assert settings.text("text") == "x"
    assert settings.port("port") == 80
    assert settings.paths("paths") == {"a": Path("/b")}


@pytest.mark.parametrize(
    ("kind", "key", "words"),
    [
        *(("text", key, "text") for key in ("empty", "port", "none")),
        *(("path", key, "text") for key in ("empty", "paths")),
        *(("port", key, "a TCP port") for key in ("flag", "zero", "high", "text", "none")),
        *(("paths", key, "an object of paths") for key in ("numbers", "text", "none")),
    ],
)
def test_anything_else_is_refused(settings: Settings, kind: str, key: str, words: str) -> None:
    with pytest.raises(FederationError, match=rf"relay\.json: {key} should be {words}$"):
        getattr(settings, kind)(key)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b" " * (1 << 20) + b"{}"])
def test_no_configuration(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FederationError, match=r"x\.json"):
        Settings(tmp_path / "x.json")
