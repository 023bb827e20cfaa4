"""What would go wrong with a party here: everything at once, before anything is started.

    for row in preflight(local):
        print(row.what, row.said, row.error)

Nothing is written, joined or kept; what listens for a moment is closed again.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sealtune import sockets
from sealtune.attest.errors import UnknownSignerError
from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.base import MACHINE
from sealtune.attest.policy import KindPolicy
from sealtune.errors import (
    AcceleratorLostError,
    FederationError,
    KeyFileError,
    PortInUseError,
    SealtuneError,
    StorageError,
    UnknownKeyError,
)
from sealtune.job.compute_rules import GPU, device_of
from sealtune.job.dsse import Envelope
from sealtune.job.local import Local
from sealtune.job.manifest import Manifest, verify_manifest
from sealtune.job.method import Attested, method_of
from sealtune.job.units import size
from sealtune.launch.folder import check_folder, check_idle
from sealtune.launch.network import check_network_key
from sealtune.launch.parties import admit_party
from sealtune.launch.reach import Asked, check_clock, reach

_LEAST_FREE = 1 << 30  # bytes
_PATIENCE = 5.0  # seconds for an accelerator to answer


@dataclass(frozen=True)
class Row:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        said: what was found.
        error: why the party cannot run like this; None: it can.
    """

    what: str
    said: str
    error: SealtuneError | None = None


def preflight(local: Local, image: Callable[[Local], str] | None = None) -> Iterator[Row]:
    """Look at everything that the party needs; each problem is told once.

    Args:
        image: whether the party's image can be booted; inside, its program decides on admission
            and makes the evidence, so that this machine is asked for neither.
    """
    told = set()
    for what, check in _checks(local, image):
        try:
            said, error = check(), None
        except SealtuneError as wrong:
            said, error = wrong.message, wrong
        if error is None or said not in told:
            yield Row(what, said, error)
        told.add(said)


def _checks(
    local: Local, image: Callable[[Local], str] | None
) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "folder", partial(_folder, local)
    for name in ("key", "node_key", "tls_key", "pad_key"):
        if (path := getattr(local, name)) is not None:
            yield name, partial(_private, path)
    for name in ("listen", "listen_server"):
        if address := getattr(local, name):
            yield name, partial(_listen, address)
    yield from _accelerators(local)
    try:
        manifest = verify_manifest(Envelope.read(local.manifest))
    except SealtuneError as error:
        yield "manifest", _raiser(error)
        return
    if image is None:
        yield from _machine(local, manifest)
    yield "network key", partial(_network_key, local, manifest)
    if manifest.network is not None and local.role in ("site", "server"):
        yield from _network(local, manifest)
    if image is None:
        yield "admission", partial(_admission, local)
    else:
        yield "image", partial(image, local)


def _accelerators(local: Local) -> Iterator[tuple[str, Callable[[], str]]]:
    for role in ("accelerator", "pad-accelerator"):
        if address := getattr(local, role.replace("-", "_")):
            yield role, partial(_accelerator, address, role)
    if local.untrusted_shm is not None:
        yield "untrusted_shm", partial(_shared_folder, local.untrusted_shm)


def _machine(local: Local, manifest: Manifest) -> Iterator[tuple[str, Callable[[], str]]]:
    """What the machine must have for an enclave."""
    rules = method_of(manifest.method)
    wanted = manifest.settings.compute == GPU and local.role == rules.trains
    if wanted or (local.device is not None and local.role in ("server", "site")):
        yield "device", partial(_device, local, manifest)
    for role in rules.attested:
        if role == local.role:
            yield "evidence", partial(_evidence, local, role, manifest)


def _device(local: Local, manifest: Manifest) -> str:
    if device_of(manifest.settings, local.role, local.device) == "cpu":
        return "it computes on the processor"
    from sealtune.model.compute import check_cuda

    check_cuda()
    return "a CUDA device is here"


def _raiser(error: SealtuneError) -> Callable[[], str]:
    def check() -> str:
        raise error

    return check


def _admission(local: Local) -> str:
    return f"admitted to job {admit_party(local).job_id[:16]}…"


def _folder(local: Local) -> str:
    folder = there = local.folder
    check_idle(folder)
    if local.manifest.is_file():
        check_folder(folder, Envelope.read(local.manifest))
    while not there.exists():
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise StorageError(f"{folder} cannot be written", hint="give this account a folder")
    free = shutil.disk_usage(there).free
    if free < _LEAST_FREE:
        raise StorageError(
            f"{folder}: {size(free)} are free", hint=f"{size(_LEAST_FREE)} should be, at least"
        )
    return f"{folder}, {size(free)} free"


def _private(path: Path) -> str:
    try:
        mode = path.stat().st_mode & 0o777
        readable = os.access(path, os.R_OK)
    except OSError as error:
        raise KeyFileError(f"key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileError(
            f"{path} can be read by others (mode {mode:04o})", hint=f"chmod 600 {path}"
        )
    if not readable:
        raise KeyFileError(f"{path} cannot be read by this account", hint="chown it")
    return f"{path}, for this account alone"


def _listen(address: str) -> str:
    if not address.startswith(("tcp:", "vsock:")):
        return _socket_file(Path(address.removeprefix("unix:")))
    try:
        sockets.listen(address).close()
    except StorageError as error:
        raise PortInUseError(error.message, hint=error.hint) from error
    return f"{address} is free"


def _socket_file(path: Path) -> str:
    if len(os.fsencode(path.name)) > sockets.LONGEST_NAME:
        limit = sockets.LONGEST_NAME
        raise StorageError(f"{path.name} is longer than the {limit} bytes of a socket's name")
    if not path.parent.is_dir():
        raise StorageError(f"there is no folder {path.parent} for the socket")
    try:
        sockets.connect(f"unix:{path}", timeout=1).close()
    except OSError:
        return f"{path} is free"
    raise PortInUseError(f"somebody listens on {path} already", hint="is this party running?")


def _accelerator(address: str, role: str) -> str:
    try:
        sockets.connect(address, timeout=_PATIENCE).close()
    except OSError as error:
        raise AcceleratorLostError(
            f"no {role} answers at {address}: {error.strerror or error}",
            hint=f"is `sealtune {role}` running?",
        ) from error
    return f"answers at {address}"


def _shared_folder(path: Path) -> str:
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StorageError(
            f"{path} is no folder that this user may write to",
            hint="name one that site and accelerator both see, or leave untrusted_shm out",
        )
    return f"{path} is there"


def _evidence(local: Local, role: Attested, manifest: Manifest) -> str:
    from sealtune.party.trust import accepted_evidence, check_machine

    protection, policy = manifest.settings.protection, accepted_evidence(manifest)[role]
    kind, gpu = Kind(protection.evidence(role)), policy.gpu_required
    check_machine(protection, role, root=local.evidence_root or MACHINE, gpu=gpu)
    if kind is Kind.SIMULATED:
        _check_signer(policy.for_kind(kind), role)
    return f"this machine makes {kind} evidence{', with its GPUs' if gpu else ''}"


def _check_signer(policy: KindPolicy, role: Attested) -> None:
    """Whether simulated evidence made here is signed by a key that its peers accept."""
    from sealtune.attest.platforms.simulated import default_key_path, own_signer

    if policy.signers == "any":
        return
    path = default_key_path()
    if not path.is_file() or own_signer().hex() not in policy.signers:
        raise UnknownSignerError(
            f"simulated evidence of this {role} would be signed by {path}, which is not a key that "
            "the manifest names",
            hint="put the key there that this party's card was made with",
        )


def _network_key(local: Local, manifest: Manifest) -> str:
    check_network_key(local, manifest)
    return "an accelerator needs none" if local.accelerates else "the one in the manifest"


def _network(local: Local, manifest: Manifest) -> Iterator[tuple[str, Callable[[], str]]]:
    network = manifest.network
    if network is None:
        return
    at = network.sites_at if local.role == "site" else network.server_at
    asked: list[Asked] = []

    def coordinator() -> str:
        with reach(at, network.certificate) as link:
            if local.role == "site":
                asked.append(Asked(link, network.nodes[local.site or ""]))
        if local.role == "server":  # its own port tells no time; the sites' may be closed to it
            with suppress(FederationError), reach(network.sites_at, network.certificate) as link:
                asked.append(Asked(link, next(iter(network.nodes.values()))))
        return f"{at} shows the certificate in the manifest"

    yield "coordinator", coordinator
    for one in asked:
        if local.role == "site":
            yield "node", partial(_node, one, local.site or "")
        if (skew := one.skew) is not None:
            yield "clock", partial(check_clock, skew)


def _node(asked: Asked, site: str) -> str:
    if not asked.known:
        raise UnknownKeyError(
            f"the coordinator does not know the node key of '{site}'",
            hint="does it run this job's manifest?",
        )
    return f"the coordinator knows the node of '{site}'"
