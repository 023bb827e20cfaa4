"""Units of systemd, their accounts and their folders.

Options: systemd.exec(5), systemd.service(5), sysusers.d(5), tmpfiles.d(5).

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sealtune.deploy.services import PERMANENT, Service
from sealtune.errors import ConfigError, Problem

_HARDENED = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
LimitCORE=0
"""
_HOMES = ("/home/", "/root/", "/run/user/")


def unit(service: Service, program: Path) -> str:
    """The text of ``<name>.service``.

    Args:
        program: the ``sealtune`` command on that host.
    """
    start = " ".join(_argument(part) for part in (str(program), *service.arguments))
    needs = f"{service.of}.service" if service.of else ""
    lines = [
        "[Unit]",
        f"Description=sealtune: {service.words}",
        "Wants=network-online.target",
        f"After=network-online.target {needs}".rstrip(),
        *([f"BindsTo={needs}"] if needs else []),
        "StartLimitIntervalSec=1h",
        "StartLimitBurst=20",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={start}",
        "Restart=on-failure",
        "RestartSec=10",
        f"RestartPreventExitStatus={' '.join(map(str, PERMANENT))}",
        "KillMode=mixed",
        "TimeoutStopSec=60",
        f"User={service.user}",
        f"Group={service.group}",
        *_places(service),
        *_limits(service),
        _HARDENED,
        "[Install]",
        "WantedBy=multi-user.target",
        *([f"WantedBy={needs}"] if needs else []),
        "",
    ]
    return "\n".join(lines)


def accounts_file(services: Sequence[Service]) -> str:
    """For ``systemd-sysusers``: each service's user, and the groups."""
    groups = dict.fromkeys(service.group for service in services)
    lines = [f"g {group} -" for group in groups]
    for service in services:
        line = f'u {service.user} - "sealtune: {service.words}" /nonexistent'
        lines += [line, *([f"m {service.user} {service.group}"] * (service.user != service.group))]
    return "\n".join([*lines, ""])


def folders_file(services: Sequence[Service]) -> str:
    """For ``systemd-tmpfiles``: each service's folders and keys, and nobody else's."""
    lines = []
    for service in services:
        owner = f"{service.user} {service.group}"
        for folder in service.writes:
            # the other half passes through to its own folder
            lines.append(f"d {_word(str(folder))} {'0700' if service.of else '0710'} {owner}")
        if service.run is not None and not service.of:
            lines.append(f"d {_word(str(service.run))} 0750 {owner}")
        lines += [f"z {_word(str(key))} 0600 {owner}" for key in service.keys]
    return "\n".join([*dict.fromkeys(lines), ""])


def _places(service: Service) -> list[str]:
    state = service.state
    homes = ("XDG_STATE_HOME=%S", "XDG_DATA_HOME=%S", "XDG_CACHE_HOME=%C", "HOME=%S")
    writes = [*service.writes, *([service.run] if service.run and not service.of else [])]
    paths = (*service.reads, *service.writes, *service.keys)
    in_home = any(str(path).startswith(_HOMES) for path in paths)
    return [
        f"ReadWritePaths={' '.join(_word(str(path)) for path in (*writes, *service.shares))}",
        f"ProtectHome={'read-only' if in_home else 'yes'}",
        f"StateDirectory={state}",
        f"CacheDirectory={state}",
        f"Environment={' '.join(f'{home}/{state}' for home in homes)}",
    ]


def _limits(service: Service) -> list[str]:
    kernel = [path for path in service.devices if path.startswith("/sys/")]
    devices = [path for path in service.devices if path not in kernel]
    lines = [f"RestrictAddressFamilies={' '.join(service.families)}"]
    if "AF_INET" not in service.families:
        lines += ["PrivateNetwork=yes", "IPAddressDeny=any"]
    if devices:
        lines += ["DevicePolicy=closed", *(f"DeviceAllow={device} rw" for device in devices)]
    else:
        lines += ["PrivateDevices=yes"]
    lines += [f"ReadWritePaths=-{path}" for path in kernel] or ["ProtectKernelTunables=yes"]
    if service.locks:
        lines += ["LimitMEMLOCK=infinity"]
    if service.memory:
        lines += [f"MemoryMax={service.memory}"]
    return lines


def _argument(text: str) -> str:
    """One word of a command; systemd expands ``$`` there, too."""
    return _word(text).replace("$", "$$")


def _word(text: str) -> str:
    """One word of a line; systemd expands ``%``, and splits at spaces."""
    if not text.isprintable():
        raise ConfigError("deploy render", [Problem(repr(text), "cannot stand in a unit")])
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if set(escaped) & set(" '\"\\") else escaped
