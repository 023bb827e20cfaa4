"""Read ``local.toml``, a party's own file, as people write it.

    local = load_local(Path("local.toml"))    # paths absolute, from the file's own folder

Trust domain: operator; no enclave reads TOML.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sealtune.errors import ConfigError, Problem
from sealtune.job.load import absolute, absolute_model, read_toml
from sealtune.job.local import DataPlace, Local, ModelPlace, read_local, role_problems

_EXAMPLE = "`sealtune site -h`, as that of each party, has an example"
_TABLES: Mapping[str, type[BaseModel]] = {"model": ModelPlace, "data": DataPlace}
_PATHS = (
    "manifest",
    "folder",
    "key",
    "node_key",
    "tls_key",
    "pad_key",
    "history",
    "collateral",
    "evidence_root",
    "untrusted_shm",
    "image",
)


def load_local(path: Path) -> Local:
    """Read and check a local file; one that ends in ``.json`` is the form that programs read.

    Relative paths and sockets are taken from the file's folder; ``~`` is the home folder.

    Raises:
        ConfigError: the file cannot be read, or has faults; all of them are listed.
    """
    if path.suffix == ".json":
        return read_local(path)
    raw = read_toml(path, missing=_EXAMPLE)
    problems = [] if isinstance(raw.get("role"), dict) else role_problems(raw)
    local = None
    try:
        local = Local.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        problems += [_problem(f["loc"], f["type"], f["msg"]) for f in faults if f["type"] != "rule"]
    if problems or local is None:
        raise ConfigError(str(path), problems, hint=_EXAMPLE)
    return _absolute(local, Path(os.path.abspath(path)).parent)


def _problem(place: tuple[int | str, ...], kind: str, message: str) -> Problem:
    key = ".".join(map(str, place))
    fields: Mapping[str, Any] = Local.model_fields
    if len(place) > 1:
        fields = _TABLES[str(place[0])].model_fields
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(place[-1]), fields, n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(fields)}"
        return Problem(key, f"unknown key; {advice}")
    wanted = fields[str(place[-1])].description
    said = "is missing" if kind == "missing" else message[:1].lower() + message[1:]
    return Problem(key, f"{said}: {wanted}")


def _absolute(local: Local, base: Path) -> Local:
    changes: dict[str, Any] = {
        name: absolute(place, base)
        for name in _PATHS
        if (place := getattr(local, name)) is not None
    }
    if local.model is not None:
        path = absolute_model(local.model.path, base)
        changes["model"] = local.model.model_copy(update={"path": path})
    if local.data is not None:
        train, test = (absolute(file, base) for file in (local.data.train, local.data.test))
        changes["data"] = DataPlace(train=train, test=test)
    return anchored(local.model_copy(update=changes), base)


def anchored(local: Local, folder: Path) -> Local:
    """``local`` with relative sockets taken from ``folder``."""

    def at(socket: str) -> str:
        path = socket.removeprefix("unix:")
        if not path or (path == socket and ":" in path):
            return socket
        return socket.removesuffix(path) + str(folder / path)

    names = ("listen", "accelerator", "pad_accelerator")
    return local.model_copy(update={name: at(getattr(local, name)) for name in names})
