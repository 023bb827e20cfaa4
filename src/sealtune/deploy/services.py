"""The services of a party: which program runs under which account, and what it may touch.

What talks to the network runs under an account of its own: it reads the manifest and its key of the
network, and reaches the party's program by its socket. It has no access to data, model or state.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sealtune.attest.evidence import Kind
from sealtune.errors import ConfigError, Problem
from sealtune.job.compute_rules import device_of
from sealtune.job.dsse import Envelope
from sealtune.job.local import Local
from sealtune.job.manifest import Manifest, open_manifest
from sealtune.job.method import method_of
from sealtune.sockets import parse

# exit codes after which the same start would fail again: configuration, data, model, evidence,
# manifest and keys
PERMANENT = (2, 3, 4, 7, 10, *range(70, 90))
_LONGEST = 31  # characters of an account's name
_UNIX = ("AF_UNIX",)
_TCP = (*_UNIX, "AF_INET", "AF_INET6")
# evidence -> what its making needs of the host
_DEVICES: Mapping[Kind, tuple[str, ...]] = {
    Kind.TDX: ("/dev/tdx_guest", "/sys/kernel/config/tsm"),
    Kind.SEV_SNP: ("/dev/sev-guest", "/sys/kernel/config/tsm"),
    Kind.SGX: ("/dev/sgx_enclave", "/dev/sgx_provision"),
}
_GPU = ("char-nvidia*", "char-nvidia-uvm")
_FILES = ("key", "node_key", "tls_key", "pad_key", "collateral", "image", "history")
_MACHINE = ("/dev/kvm", "/dev/vhost-vsock")  # to boot an image


@dataclass(frozen=True)
class Service:
    """One program under an account of its own.

    Attributes:
        name: of the service; unique on the host.
        words: what it is.
        arguments: of ``sealtune``.
        user, group: its account; both halves of a party share the group.
        reads, writes: files and folders; ``keys``: files that only this account may read.
        shares: folder of memory that it shares with another program; it stays whose it is.
        run: folder of the socket where the halves meet, if they do.
        socket: address of an accelerator's socket.
        families: kinds of sockets.
        devices: of the host, besides the harmless ones.
        ports: where it listens to other hosts.
        memory: the most it should ever need, such as ``512M``; empty: nobody can say.
        locks: it keeps secrets in memory that is never swapped.
        of: the service that it belongs to and ends with.
        dials_out: whether it connects to other hosts.
        simulated: its evidence is: it signs with the key that its card was made with.
    """

    name: str
    words: str
    arguments: tuple[str, ...]
    user: str
    group: str
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    keys: tuple[Path, ...] = ()
    shares: tuple[Path, ...] = ()
    run: Path | None = None
    socket: str = ""
    families: tuple[str, ...] = _TCP
    devices: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    memory: str = ""
    locks: bool = False
    of: str = ""
    dials_out: bool = False
    simulated: bool = False

    @property
    def state(self) -> str:
        """Its folder, of systemd's making, below that of all services' states."""
        return f"sealtune/{self.name.removeprefix('sealtune-')}"


def services_of(parties: Mapping[Path, Local]) -> list[Service]:
    """What the parties of one host run.

    Args:
        parties: their own files, read.

    Raises:
        ConfigError: one cannot be a service, or two are the same.
        ManifestError: a manifest cannot be read.
    """
    services = [one for file, local in parties.items() for one in _services_of(local, file)]
    names = [service.name for service in services]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        words = "stands in two files: render the parties of one job at a time"
        raise ConfigError("--local", [Problem(name, words) for name in twice])
    return [_joined(one, services, list(parties.values())) for one in services]


def _joined(service: Service, services: list[Service], parties: list[Local]) -> Service:
    """An accelerator that a site of this host reaches by a socket is of the site's group."""
    for local in parties:
        if service.socket and service.socket in (local.accelerator, local.pad_accelerator):
            name = f"sealtune-{local.name}"
            return replace(service, group=next(one.group for one in services if one.name == name))
    return service


def _services_of(local: Local, file: Path) -> list[Service]:
    manifest = open_manifest(Envelope.read(local.manifest))
    if problems := list(_folder_problems(local, file)):
        raise ConfigError(str(file), problems)
    account = account_of(local)
    name, command = f"sealtune-{local.name}", (local.role, "--local", str(file), "--quiet")
    both = (local.manifest, file)
    if local.role == "coordinator":
        ports = tuple(parse(one).port for one in (local.listen, local.listen_server))
        keys = _there(local.tls_key)
        return [
            Service(
                name, "carries sealed bytes between a job's sites and its server", command,
                account, account, both, (local.folder,), keys, ports=ports,
            )
        ]  # fmt: skip
    own = _own_program(local, manifest, name, command, account, both)
    if local.accelerates:
        return [own]
    what = "node" if local.role == "site" else "link"
    network = Service(
        name=f"{name}-{what}",
        words=f"connects {_who(local)} to the coordinator",
        arguments=(*command, "--only", "network"),
        user=_short(f"{account}-{what}"),
        group=own.group,
        reads=both,
        writes=(local.folder / "network",),
        keys=_there(local.node_key if local.role == "site" else local.tls_key),
        run=own.run,
        memory="512M" if what == "link" else "4G",
        of=name,
        dials_out=True,
    )
    return [own, network]


def account_of(local: Local) -> str:
    """The name of a party's account."""
    return _short(f"sealtune-{local.site or local.role}")


def _own_program(
    local: Local,
    manifest: Manifest,
    name: str,
    command: tuple[str, ...],
    account: str,
    both: tuple[Path, ...],
) -> Service:
    address = parse(local.listen)
    accelerates = local.accelerates
    dialled = (local.listen,) if accelerates else (local.accelerator, local.pad_accelerator)
    far = [parse(one) for one in dialled if one]
    outside = any(one.scheme == "tcp" for one in far or (address,))
    meeting = [Path(one.place).parent for one in far if one.scheme == "unix"]
    families = _TCP if outside or local.image else _UNIX
    data = (local.data.train, local.data.test) if local.data else ()
    places = (*data, *_there(local.image), *_there(local.collateral))
    model = (Path(local.model.path),) if local.model and local.model.path.startswith("/") else ()
    return Service(
        name=name,
        words=_who(local),
        arguments=command if accelerates else (*command, "--only", "enclave"),
        user=account,
        group=account if accelerates else _short(f"{account}-net"),
        reads=(*both, *(one for one in (*places, *model, *meeting) if one.is_absolute())),
        writes=(local.folder, *_there(local.history)),
        keys=(*_there(local.key), *_there(local.pad_key)),
        shares=_there(local.untrusted_shm),
        run=Path(address.place).parent if address.scheme == "unix" else None,
        socket=local.listen if accelerates else "",
        families=(*families, *(("AF_VSOCK",) if local.image else ())),
        devices=_GPU if accelerates and local.device != "cpu" else _devices(local, manifest),
        ports=(address.port,) if accelerates and address.scheme == "tcp" else (),
        locks=local.role != "accelerator",
        dials_out=outside and not accelerates,
        simulated=_evidence(local, manifest) is Kind.SIMULATED,
    )


def _folder_problems(local: Local, file: Path) -> Iterator[Problem]:
    """Folders that would be made over to a service, with all that is in them."""
    for name in ("folder", "history"):
        folder = getattr(local, name)
        if folder is not None and _is_everybodys(folder):
            words = f"is {folder}, which would be made over to the service: name one of its own"
            yield Problem(name, words)
    if local.role == "coordinator" or parse(local.listen).scheme != "unix":
        return
    folder = Path(os.path.normpath(parse(local.listen).place)).parent
    within = [path for path in _named(local, file) if path.is_relative_to(folder)]
    own = f"name a socket in one of its own, such as /run/{account_of(local)}/program.sock"
    given = f"lies in {folder}, which would be made over to the service"
    if within:
        yield Problem("listen", f"{given} with {within[0]} in it: {own}")
    elif folder.is_relative_to("/tmp") and not local.accelerates:
        words = "lies in /tmp, which each service has for itself: name a folder below /run"
        yield Problem("listen", words)
    elif _is_everybodys(folder):
        yield Problem("listen", f"{given}: {own}")


def _is_everybodys(folder: Path) -> bool:
    """Whether a folder is one of the system's, or somebody's home."""
    _, *parts = Path(os.path.normpath(folder)).parts
    if len(parts) < 2 or parts[0] in ("dev", "proc", "sys"):
        return True
    named = "/".join(parts) in ("run/lock", "run/systemd", "run/user")
    return named or (len(parts) == 2 and parts[0] in ("home", "usr", "var"))


def _named(local: Local, file: Path) -> Iterator[Path]:
    """Files of a party that are not its socket."""
    yield from (file, local.manifest)
    yield from (path for key in _FILES if (path := getattr(local, key)) is not None)
    if local.data is not None:
        yield from (local.data.train, local.data.test)
    if local.model is not None and local.model.path.startswith("/"):
        yield Path(local.model.path)


def _devices(local: Local, manifest: Manifest) -> tuple[str, ...]:
    if local.image is not None:
        return _MACHINE
    kind = _evidence(local, manifest)
    own = _DEVICES.get(kind, ()) if kind else ()
    device = device_of(manifest.settings, local.role, local.device)
    return (*own, *(_GPU if device == "cuda" else ()))


def _evidence(local: Local, manifest: Manifest) -> Kind | None:
    """What a party's program shows; None: nothing."""
    for role in method_of(manifest.method).attested:
        if role == local.role:
            return Kind(manifest.settings.protection.evidence(role))
    return None


def _who(local: Local) -> str:
    if local.accelerates:
        numbers = "masks" if local.pad_key else "masked numbers"
        return f"multiplies {numbers} for a job's sites"
    return f"site {local.site} of a job" if local.site else "a job's server"


def _there(path: Path | None) -> tuple[Path, ...]:
    return () if path is None else (path,)


def _short(name: str) -> str:
    """``name``, as an account may be called."""
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
