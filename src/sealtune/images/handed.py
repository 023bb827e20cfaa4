"""What a host hands to the program in an image: its own file, with places as they are inside, and
the files that it names.

Trust domain: operator (untrusted). The program verifies all of it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sealtune.attest.evidence import Kind
from sealtune.attest.platforms.simulated import default_key_path, load_key
from sealtune.errors import ConfigError, DigestMismatchError, Problem
from sealtune.images import init
from sealtune.images.image import Image
from sealtune.job.cache import state_folder
from sealtune.job.dsse import Envelope
from sealtune.job.local import DataPlace, Local, ModelPlace
from sealtune.job.manifest import Manifest, open_manifest
from sealtune.job.method import method_of
from sealtune.job.storage import storage_error, write_atomic

PORT = 7000  # inside, where the program listens
READ = ("in", "model")  # folders that the program's machine copies, and does not write to
# inside, where QEMU takes connections for the accelerators
DIALLED = {"accelerator": ("10.0.2.100", 7001), "pad_accelerator": ("10.0.2.101", 7002)}


def fitting(image: Image, local: Local) -> Manifest:
    """The manifest of a party whose program the image holds.

    Only spares a boot: the program itself refuses all that is refused here.

    Raises:
        ConfigError: the image holds another party's program, or the file has what none can use.
        DigestMismatchError: it holds another version of the program.
        ManifestError: the manifest cannot be read.
    """
    manifest = open_manifest(Envelope.read(local.manifest))
    program, contents = manifest.programs.get(local.role), image.contents
    problems = []
    if program != contents.program:
        words = f"holds the {contents.program}; the {local.role} of this job is the {program}"
        problems.append(Problem("image", words))
    if local.evidence_root is not None:
        problems.append(Problem("evidence_root", "is of this host; an image sees its own devices"))
    if local.untrusted_shm is not None:
        problems.append(Problem("untrusted_shm", "is of this host; an image shares no memory"))
    if local.model is not None:
        place = Path(local.model.path)
        if not place.is_dir():
            words = f"is {place}: an image needs a folder with the model's files"
            problems.append(Problem("model.path", words))
        elif any(path.is_symlink() for path in place.rglob("*")):
            words = f"is {place}, which holds links, and an image follows none: cp -rL makes files"
            problems.append(Problem("model.path", words))
    if problems:
        raise ConfigError(f"local file of the {local.name}", problems)
    if manifest.code.get(contents.program) != contents.code:
        raise DigestMismatchError(
            f"the image in {image.folder} holds another {contents.program} than the manifest names",
            hint="build the image with the version of sealtune that built the manifest",
        )
    return manifest


def hand_in(local: Local, manifest: Manifest, folder: Path) -> dict[str, Path]:
    """Put what the program reads into a new ``folder``.

    Returns:
        the folders that it sees, by their names for it.

    Raises:
        StorageError: a file cannot be read or copied.
    """
    shares = {"in": folder, "folder": local.folder}
    inside: dict[str, object] = {
        "manifest": Path(init.IN, "manifest.json"),
        "folder": Path(init.FOLDER),
        "listen": f"tcp:{init.ADDRESS}:{PORT}",
        "image": None,
        "tls_key": None,  # of the programs around it, which stay outside
        "node_key": None,
    }
    try:
        folder.mkdir(mode=0o700)
        local.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local.manifest, folder / "manifest.json")
        for name in ("key", "collateral"):
            if file := getattr(local, name):
                inside[name] = _copy(file, folder / name)
        if local.data is not None:
            train, test = (
                _copy(file, folder / f"{name}{file.suffix}")
                for name, file in (("train", local.data.train), ("test", local.data.test))
            )
            inside["data"] = DataPlace(train=train, test=test)
        if local.role == "site":
            shares["history"] = local.history or state_folder()
            shares["history"].mkdir(parents=True, exist_ok=True)
            inside["history"] = Path(init.HISTORY)
        _hand_in_simulated_key(local, manifest, folder)
    except OSError as error:
        raise storage_error(Path(error.filename or folder), error) from error
    if local.model is not None:
        shares["model"] = Path(local.model.path)
        inside["model"] = ModelPlace(path=init.MODEL)
    for name, there in DIALLED.items():
        if getattr(local, name):
            inside[name] = "tcp:{}:{}".format(*there)
    text = local.model_copy(update=inside).model_dump_json()
    write_atomic(folder / "local.json", text.encode())
    return shares


def _hand_in_simulated_key(local: Local, manifest: Manifest, folder: Path) -> None:
    """A simulated TEE is only as good as this user's development key, which all of one trial share.

    It is handed in where the manifest asks for simulated evidence. No hardware's evidence or
    sealing key has anything to do with it.
    """
    if local.role not in method_of(manifest.method).attested:
        return
    if Kind(manifest.settings.protection.evidence(local.role)) is not Kind.SIMULATED:
        return
    load_key()  # makes it, where there is none yet
    place = folder / init.SIMULATED_KEY / "sealtune" / default_key_path().name
    place.parent.mkdir(parents=True)
    shutil.copy(default_key_path(), place)


def _copy(source: Path, target: Path) -> Path:
    """Copy one file, or link it where that is possible; returns its place inside."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy(source, target)
    return Path(init.IN, target.name)
