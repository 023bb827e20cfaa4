"""What goes into the initial file system: Python, libraries, wheels and the program's own files.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import posixpath
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from sealtune.errors import StorageError
from sealtune.images.archive import Entry
from sealtune.images.elf import needed
from sealtune.images.lock import PYTHON, Package
from sealtune.native import sources
from sealtune.start import ROOT, list_file, read_program

INTERPRETER = f"usr/bin/python{PYTHON}"
LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARY = f"usr/lib/python{PYTHON}"
_PACKAGES = f"usr/local/lib/python{PYTHON}/dist-packages"
OWN = "opt/sealtune"
LIBRARY = f"{OWN}/native/{sources.LIBRARY}"
_USES_LIBRARY = "native/library.py"
# of Python's library: no program uses it, or it needs libraries that are not in the image
_LEFT_OUT = frozenset({
    "curses", "dbm", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "sqlite3", "test",
    "tkinter", "turtledemo", "sitecustomize.py", "_crypt", "_ctypes_test", "_curses",
    "_curses_panel", "_dbm", "_sqlite3", "nis", "ossaudiodev", "readline", "xxlimited",
    "xxlimited_35",
})  # fmt: skip
_TESTS = ("_test", "_xx")
# of wheels: what is for people and compilers
_UNUSED = frozenset({
    ".a", ".c", ".cc", ".cmake", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".lib", ".pxd", ".pyi",
    ".pyx",
})  # fmt: skip
_ASIDE = frozenset({"__pycache__", "include", "tests"})
_TEST_PROGRAMS = "bin/test_*"


def deb_files(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Regular files of a Debian package by their paths; links as what they lead to within it.

    Raises:
        StorageError: it is no Debian package.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(path)]
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
        ):
            for member in archive:
                name = member.name.removeprefix("./")
                file = archive.extractfile(member) if member.isreg() and wanted(name) else None
                if file is not None:
                    files[name] = file.read()
                elif member.issym():
                    links[name] = _led_to(name, member.linkname)
    except (OSError, tarfile.TarError) as error:
        raise StorageError(f"dpkg-deb cannot unpack {path}: {error}") from error
    for name, target in links.items():
        end = target
        for _ in range(8):  # links to links; a circle leads nowhere
            end = links.get(end, end)
        if end in files:
            files.setdefault(name, files[end])
    return files


def _led_to(link: str, target: str) -> str:
    """The path within the package that a link leads to."""
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(link), target))[1:]


def python_files(files: Mapping[str, bytes], origin: str) -> Iterator[tuple[str, Entry]]:
    """The interpreter and what it needs of its library."""
    for path, data in files.items():
        if path == INTERPRETER:
            yield path, Entry(data, origin, executable=True)
        elif path.startswith(f"{_LIBRARY}/") and _is_used(path):
            yield path, Entry(data, origin)


def _is_used(path: str) -> bool:
    parts = PurePosixPath(path).relative_to(_LIBRARY).parts
    names = (parts[0], parts[-1].partition(".")[0]) if parts[0] == "lib-dynload" else parts[:1]
    return not any(name in _LEFT_OUT or name.startswith(_TESTS) for name in names)


def wheel_files(
    path: Path, package: Package, modules: tuple[str, ...]
) -> Iterator[tuple[str, Entry]]:
    """The files of a wheel that are of these modules, with its metadata.

    Raises:
        StorageError: it is no wheel, or holds a path that leads out of it.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            for name in sorted(wheel.namelist()):
                pure = PurePosixPath(name)
                if pure.is_absolute() or ".." in pure.parts or _elsewhere(pure):
                    raise StorageError(f"{package.label} holds {name!r}, which has no place here")
                if not name.endswith("/") and _is_loaded(pure, modules):
                    yield f"{_PACKAGES}/{name}", Entry(wheel.read(name), package.label)
    except (OSError, zipfile.BadZipFile) as error:
        raise StorageError(f"{package.label} is no wheel: {error}") from error


def _elsewhere(path: PurePosixPath) -> bool:
    """Whether an installer would put the file among the modules, from a folder of its own."""
    return path.parts[0].endswith(".data") and path.parts[1:2] in (("purelib",), ("platlib",))


def _is_loaded(path: PurePosixPath, modules: tuple[str, ...]) -> bool:
    top = path.parts[0]
    if top.endswith(".dist-info"):
        return path.name == "METADATA"  # libraries ask for each other's versions
    if top.partition(".")[0] not in modules:
        return False
    if path.suffix in _UNUSED or path.match(_TEST_PROGRAMS):
        return False
    return not _ASIDE & {*path.parts}


def program_files(name: str, root: Path = ROOT) -> Iterator[tuple[str, Entry]]:
    """The files that a program's code digest covers."""
    program = read_program(name, root)
    paths = [list_file(name, root), *(root / f for f in program.at_start + program.on_demand)]
    for path in paths:
        yield f"{OWN}/{path.relative_to(root).as_posix()}", Entry(path.read_bytes(), "sealtune")


def library_file(name: str, library: Path | None) -> Iterator[tuple[str, Entry]]:
    """The C library, if the program uses one.

    Args:
        library: default: this installation's, if it has one.

    Raises:
        StorageError: it cannot be read, or was built from other sources than the program's.
    """
    own, program = sources.FOLDER / sources.LIBRARY, read_program(name)
    used = _USES_LIBRARY in (*program.at_start, *program.on_demand)
    if not used or not (library or own.is_file()):
        return
    try:
        data = (library or own).read_bytes()
    except OSError as error:
        raise StorageError(f"the C library {library or own} cannot be read: {error}") from error
    if sources.digest().encode() not in data:
        raise StorageError(
            f"{library or own} was built from other sources than this program's",
            hint="`python -m sealtune.native.build` builds it anew",
        )
    yield LIBRARY, Entry(data, "sealtune")


def libraries(
    entries: Mapping[str, Entry], available: Mapping[str, tuple[bytes, str]]
) -> dict[str, Entry]:
    """The libraries that machine code in ``entries`` asks for, and those that these ask for.

    Args:
        available: path -> contents and package, of the lock's Debian packages.

    Raises:
        StorageError: nothing in the image or the packages has one.
    """
    by_name = {PurePosixPath(path).name: path for path in available}
    inside = {PurePosixPath(path).name for path in entries}
    loader = available.get(LOADER) or available.get(LOADER.replace("lib64", "lib/x86_64-linux-gnu"))
    if loader is None:
        raise StorageError("no package of the lock has the loader of libraries (libc6)")
    taken = {LOADER: Entry(*loader, executable=True)}
    inside.add(PurePosixPath(LOADER).name)
    waiting = [(path, entry.data) for path, entry in entries.items()]
    while waiting:
        path, data = waiting.pop()
        for name in needed(data):
            if name in inside:
                continue
            if name not in by_name:
                raise StorageError(f"{path} needs {name}, which no package of the lock has")
            inside.add(name)
            place = by_name[name]
            taken[place] = Entry(*available[place])
            waiting.append((place, available[place][0]))
    return taken
