"""A compose file: one container for each service, each with what it may touch and no more.

Only the coordinator and accelerators publish ports. A site's program is in no network but that of
its accelerator; its node, and the server's link, are in one that leads out. The format is that of
https://github.com/compose-spec/compose-spec.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sealtune.deploy.services import Service

_FIRST_ID = 20000  # of accounts and groups in containers
_OUT = "outgoing"
_HEAD = """\
# Made by `sealtune deploy render`. Build the image named below from your own sealtune, by digest.
# The folders and keys must belong to the numbers under `user`: see `chown` in what render printed.
"""


def compose_file(services: Sequence[Service], image: str) -> str:
    """The text of ``compose.yaml``.

    Args:
        image: of a container with sealtune, whose entry point is its command.
    """
    ids = _ids(services)
    content = {
        "services": {service.name: _container(service, image, ids) for service in services},
        "networks": {_OUT: {"driver": "bridge"}},
    }
    return _HEAD + "\n".join(_lines(content)) + "\n"


def numbers(services: Sequence[Service]) -> dict[str, str]:
    """Service -> ``user:group`` of its container."""
    ids = _ids(services)
    return {one.name: f"{ids[one.user]}:{ids[one.group]}" for one in services}


def _ids(services: Sequence[Service]) -> dict[str, int]:
    names = dict.fromkeys(name for one in services for name in (one.user, one.group))
    return {name: _FIRST_ID + number for number, name in enumerate(names)}


def _container(service: Service, image: str, ids: Mapping[str, int]) -> dict[str, Any]:
    writes = [*service.writes, *([service.run] if service.run else []), *service.shares]
    reads = [*service.reads, *service.keys]
    content: dict[str, Any] = {
        "image": image,
        "command": [word.replace("$", "$$") for word in service.arguments],
        "user": f"{ids[service.user]}:{ids[service.group]}",
        "read_only": True,
        "tmpfs": ["/tmp:mode=1777"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "restart": "on-failure:20",
        "stop_grace_period": "60s",
        "environment": {
            "HOME": "/state",
            "XDG_STATE_HOME": "/state",
            "XDG_DATA_HOME": "/state",
            "XDG_CACHE_HOME": "/tmp/cache",
        },
        "volumes": [
            *(_bind(str(path), str(path), read_only=True) for path in dict.fromkeys(reads)),
            *(_bind(str(path), str(path)) for path in dict.fromkeys(writes)),
            _bind(str(service.writes[0]), "/state"),
        ],
    }
    if service.ports:
        content["ports"] = [f"{port}:{port}" for port in service.ports]
    if service.ports or service.dials_out:
        content["networks"] = [_OUT]
    else:
        content["network_mode"] = "none"
    if service.of:
        content["depends_on"] = [service.of]
    devices = [path for path in service.devices if path.startswith("/dev/")]
    if devices:
        content["devices"] = devices
    if service.memory:
        content["mem_limit"] = service.memory.lower()
    if service.locks:
        content["ulimits"] = {"memlock": -1, "core": 0}
    return content


def _bind(source: str, target: str, *, read_only: bool = False) -> dict[str, Any]:
    source, target = source.replace("$", "$$"), target.replace("$", "$$")
    bind = {"type": "bind", "source": source, "target": target}
    return bind | ({"read_only": True} if read_only else {})


def _lines(value: Mapping[str, Any] | Sequence[Any], indent: str = "") -> list[str]:
    """YAML in the few forms that are needed; texts are quoted as in JSON."""
    lines = []
    pairs = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
    for key, item in pairs:
        head = f"{indent}{json.dumps(key)}:" if key is not None else f"{indent}-"
        if isinstance(item, Mapping | list) and item:
            first, *rest = _lines(item, indent + "  ")
            if key is None:
                lines += [f"{head} {first.lstrip()}", *rest]
            else:
                lines += [head, first, *rest]
        else:
            lines.append(f"{head} {json.dumps(item)}")
    return lines
