"""The parties of a job: each one's own file, and the command of its program.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.errors import ConfigError, Problem, UnknownKeyError
from sealtune.job.compute_rules import Device
from sealtune.job.dsse import Envelope
from sealtune.job.local import DataPlace, Local, ModelPlace
from sealtune.job.manifest import open_manifest
from sealtune.job.spec import Job
from sealtune.job.storage import write_atomic
from sealtune.launch.domain import Domain, role_of
from sealtune.launch.environment import program, sealtune_command
from sealtune.launch.folder import MANIFEST
from sealtune.launch.network import check_network_key
from sealtune.launch.threads import cores, thread_settings

if TYPE_CHECKING:
    from sealtune.party.admit import Admitted

PADS = "pad-accelerator"
PAD_KEY = Path("keys", "pads.hpke.key")  # of a run's folder: thrown away with it
FOLDER = "parties"  # of a run's folder: what each party's program reads


def line_up(
    job: Job,
    run_dir: Path,
    *,
    keys: Mapping[str, Path],
    history: Path | None = None,
    resume: bool = False,
    images: Mapping[str, Path] | None = None,
    device: Device | None = None,
) -> list[Local]:
    """The parties of a run on one machine, in the order in which they start.

    Their sockets are relative, to be ``anchored`` in the run's temporary folder.

    Args:
        job: with the places of model and data.
        run_dir: the run's folder, which holds its manifest.
        keys: site -> file of its organisation's key, where sites need it.
        history: folder where sites remember their jobs; default: that of the user.
        resume: go on from the sealed checkpoint.
        images: ``server`` or site -> folder of an image that runs it.
        device: of whoever trains; default: the job's.
    """
    home = run_dir.resolve()
    booted = {name: folder.resolve() for name, folder in (images or {}).items()}
    common: dict[str, Any] = {"manifest": home / MANIFEST, "folder": home}
    model = ModelPlace(path=job.model.path, revision=job.model.revision)
    method = job.job.rules
    parties = []
    if job.accelerated:
        listen = "unix:accelerator.sock"
        parties.append(Local(role="accelerator", listen=listen, model=model, **common))
    pads = job.protection.pads == "second-accelerator"
    if pads:
        listen, key = "unix:pads.sock", home / PAD_KEY
        parties.append(
            Local(role="pad-accelerator", listen=listen, pad_key=key, model=model, **common)
        )
    held = model if method.server_trains else None
    parties.append(
        Local(
            role="server",
            listen="server.sock",
            resume=resume,
            image=booted.get("server"),
            model=held,
            device=device if method.server_trains else None,
            **common,
        )
    )
    for number, site in enumerate(job.sites.names):
        parties.append(
            Local(
                role="site",
                site=site,
                listen=f"c{number}.sock",  # names may be long, and a socket's path may not
                accelerator="unix:accelerator.sock" if job.accelerated else "",
                pad_accelerator="unix:pads.sock" if pads else "",
                key=keys[site].resolve() if site in keys else None,
                history=history and history.resolve(),
                image=booted.get(site),
                model=model,
                data=data_of(job, site),
                device=None if method.server_trains else device,
                **common,
            )
        )
    return parties


def data_of(job: Job, site: str) -> DataPlace:
    """Where the data of ``site`` lies: its own files, or the pooled ones."""
    train, test = (f[site] if isinstance(f, dict) else f for f in (job.data.train, job.data.test))
    return DataPlace(train=train, test=test)


def admit_party(local: Local) -> Admitted:
    """Admit the party of a local file, whichever it is.

    Raises:
        ConfigError: jobs of this method have no such party.
        UnknownKeyError: the manifest knows its host by another key.
        KeyFileError: a pad accelerator's key cannot be used.
        SealtuneError: it is not admitted.
    """
    from sealtune.party.admit import admit
    from sealtune.plan.roles import ROLES

    manifest = open_manifest(Envelope.read(local.manifest))
    method = manifest.method
    if local.role not in ROLES[method]:
        words = f"is '{local.role}', which no {method} job has"
        raise ConfigError("local file", [Problem("role", words)])
    if local.role == PADS and not manifest.pad_accelerators:
        words = f"is '{PADS}', but in this job enclaves multiply masks themselves"
        raise ConfigError("local file", [Problem("role", words)])
    admitted = admit(local, ROLES[method][local.role])
    if local.role == PADS:
        _served(admitted)
    if local.role == "coordinator" or admitted.manifest.network is not None:
        check_network_key(local, admitted.manifest)
    return admitted


def domain_of(local: Local, command: Sequence[str], sites: int = 1) -> Domain:
    """A party's own program.

    Args:
        command: that starts it.
        sites: how many of them share this machine.
    """
    # a server enclave that has a model trains it
    share = "trainer" if local.role == "server" and local.model else role_of(local)
    threads = thread_settings(share.partition(":")[0], sites, cores())
    return Domain(role_of(local), command, threads)


def command(local: Local, path: Path | None = None) -> list[str]:
    """Write what a party's program reads, and return the command of the program, or of the
    machine that it runs in.

    Args:
        path: where to write it; default: the party's folder.

    Raises:
        SealtuneError: an accelerator's party is not admitted; the others' programs find out.
    """
    path = path or party_file(local.folder, local.name)
    if local.accelerates:
        admitted = admit_party(local)
        content = _for_pads(admitted) if local.role == PADS else _for_accelerator(admitted)
        write_atomic(path, json.dumps(content).encode())
        return program(local.role, str(path))
    write_party(local, path)
    if local.image is not None:
        boot = ("image", "run", str(local.image), "--local", str(path))
        return sealtune_command("sealtune.cli.main", *boot)
    name = open_manifest(Envelope.read(local.manifest)).programs[local.role]
    return program(name, str(path))


def write_party(local: Local, path: Path | None = None) -> None:
    """Write a party's own file as programs read it; default: into the party's folder."""
    write_atomic(path or party_file(local.folder, local.name), local.model_dump_json().encode())


def party_file(run_dir: Path, name: str) -> Path:
    """Where a run's folder keeps what one party's program reads."""
    return run_dir / FOLDER / f"{name}.json"


def _for_accelerator(admitted: Admitted) -> dict[str, Any]:
    """The little that the accelerator's program may know; it has no reader of jobs."""
    local, plan = admitted.local, admitted.plan
    return {
        "listen": local.listen,
        "device": local.device,
        "untrusted_shm": str(local.untrusted_shm) if local.untrusted_shm else None,
        "backbone": plan.backbone.path,
        "groups": [group.model_dump(mode="json") for group in plan.groups],
        "prefix_blocks": plan.prefix_blocks,
        "model": {"path": admitted.job.model.path, "revision": admitted.job.model.revision},
    }


def _for_pads(admitted: Admitted) -> dict[str, Any]:
    """The same of a pad accelerator's program."""
    shared = _for_accelerator(admitted)
    return {
        **{key: shared[key] for key in ("listen", "device", "backbone", "groups")},
        "key": str(admitted.local.pad_key),
        "job": admitted.job_id,
        "sites": _served(admitted),
    }


def _served(admitted: Admitted) -> list[str]:
    """The sites whose pad accelerator is the one with this key.

    Raises:
        KeyFileError: the key cannot be used.
        UnknownKeyError: the manifest names it for no site.
    """
    from sealtune.channel.pad_key import load_pad_key

    path = admitted.local.pad_key
    assert path is not None, "its role needs it"
    key = load_pad_key(path).public_bytes.hex()
    sites = [site for site, one in admitted.manifest.pad_accelerators.items() if one.key == key]
    if not sites:
        raise UnknownKeyError(
            f"the key in {path} is that of no site's pad accelerator in the manifest",
            hint="give the key that this pad accelerator's card was made with",
        )
    return sites
