"""Build an image: Debian's kernel for virtual machines, and one program in an initial file system.

Everything lies in memory once it is booted, so there is no disk to verify, and what the launch
measurement covers is all that runs. Nothing in it hangs on the machine that builds it, but for the
C library, if the program uses one: its bytes depend on the compiler's version.

Trust domain: operator (untrusted). What was built is believed by its measurement.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from sealtune.attest.measure import program_digest
from sealtune.images import init
from sealtune.images.archive import Entry, write_archive
from sealtune.images.fetch import fetch, sha256_of
from sealtune.images.image import BOOTED, LIST, Content, Contents, Image, digest_of
from sealtune.images.kernel import Kernel, is_wanted, take_kernel
from sealtune.images.lock import Lock, Package
from sealtune.images.parts import (
    deb_files,
    libraries,
    library_file,
    program_files,
    python_files,
    wheel_files,
)
from sealtune.job.storage import replacing, write_atomic
from sealtune.start import ROOT, read_program

# panic=-1: a kernel in trouble ends the machine at once, and so the run
# no_timer_check: a busy host that emulates ticks late looks like broken hardware otherwise
# random.trust_bootloader=off: the host's seed does not count; the processor's own does
CMDLINE = "console=ttyS0 loglevel=4 panic=-1 oops=panic no_timer_check random.trust_bootloader=off"
_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "root", "folder", "history")


def build(
    lock: Lock,
    program: str,
    folder: Path,
    *,
    cache: Path | None = None,
    root: Path = ROOT,
    library: Path | None = None,
) -> Image:
    """Build the image of a program into ``folder``; what was built there before is replaced.

    Args:
        lock: what to build it of.
        program: its list's name, such as ``aggregator``.
        cache: folder of kept packages; default: in the user's cache.
        root: the package's folder.
        library: C library for a program that uses one; default: this installation's, if any.

    Raises:
        DigestMismatchError: a package is not the one that the lock names.
        StorageError: a package cannot be had or unpacked, or the folder cannot be written.
    """
    listed = read_program(program, root).packages
    wheels, absent = lock.wheels_of(listed)
    debs = [package for package in lock.packages if package.kind == "deb"]
    kernel: Kernel | None = None
    entries: dict[str, Entry] = {}
    available: dict[str, tuple[bytes, str]] = {}
    for package in debs:
        path = fetch(package, cache)
        if package.name == lock.kernel:
            kernel = take_kernel(deb_files(path, is_wanted), package.label)
            continue
        files = deb_files(path, lambda name: not name.startswith("usr/share/"))
        entries |= python_files(files, package.label)
        available |= {p: (data, package.label) for p, data in files.items() if ".so" in p}
    assert kernel is not None  # read_lock has seen to it
    for package in wheels:
        entries |= wheel_files(fetch(package, cache), package, listed)
    entries |= program_files(program, root)
    entries |= library_file(program, library)
    entries |= libraries(entries, available)
    entries |= {f"{init.MODULES[1:]}/{name}": entry for name, entry in kernel.modules.items()}
    entries |= _settings(program, kernel)
    return _write(folder, kernel, entries, _facts(program, root), (*debs, *wheels), tuple(absent))


def _settings(program: str, kernel: Kernel) -> dict[str, Entry]:
    """What starts first, and what it is told."""
    source = Path(init.__file__).read_bytes()
    names = "".join(f"{name}\n" for name in kernel.modules)
    return {
        "init": Entry(source, "init", executable=True),
        init.PROGRAM[1:]: Entry(f"{program}\n".encode(), "init"),
        init.ORDER[1:]: Entry(names.encode(), "init"),
    }


def _facts(program: str, root: Path) -> tuple[str, str]:
    return program, program_digest(program, root).hex()


def _write(
    folder: Path,
    kernel: Kernel,
    entries: dict[str, Entry],
    facts: tuple[str, str],
    packages: tuple[Package, ...],
    absent: tuple[str, ...],
) -> Image:
    """The four files; the list comes last, so that a build that broke off is no image."""
    (folder / LIST).unlink(missing_ok=True)
    write_atomic(folder / "vmlinuz", kernel.image)
    write_atomic(folder / "cmdline", CMDLINE.encode())
    with replacing(folder / "initrd") as part, part.open("wb") as file:
        write_archive(file, entries, _FOLDERS)
    booted = {name: sha256_of(folder / name) for name in BOOTED}
    files = [
        Content(
            path=path,
            sha256=hashlib.sha256(entry.data).hexdigest(),
            size=len(entry.data),
            origin=entry.origin,
        )
        for path, entry in sorted(entries.items())
    ]
    program, code = facts
    contents = Contents(
        program=program,
        code=code,
        kernel=kernel.release,
        booted=booted,  # type: ignore[arg-type]
        digest=digest_of(booted),
        packages=packages,
        absent=absent,
        files=tuple(files),
    )
    write_atomic(folder / LIST, contents.model_dump_json(indent=1).encode() + b"\n")
    return Image(folder, contents)
