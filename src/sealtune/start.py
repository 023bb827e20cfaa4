"""Starts one of sealtune's programs with nothing foreign on the way.

    python -I -B start.py PROGRAM [ARGUMENT...]        PROGRAM such as site-enclave

``-I`` leaves out the current folder, the user's packages and every ``PYTHON...`` variable. Here,
the package sealtune is taken from the folder of this file and from nowhere else; its modules are
compiled from their sources, so neither a stale or planted ``.pyc`` nor an extension module decides
what runs; and a program finds exactly the files of its list, ``programs/PROGRAM.txt``, which are
those that its code digest covers (``sealtune.attest.measure``).

Trust domain: every program.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from importlib import machinery
from importlib.machinery import FileFinder, ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
SECTIONS = ("main", "at start", "on demand", "packages", "closed")


class Program(NamedTuple):
    """What ``programs/NAME.txt`` says; paths are relative to the package's folder.

    Attributes:
        main: the file that is run.
        at_start: what importing it loads, itself and this file included.
        on_demand: what functions may load later.
        packages: others' packages that it may load, by their names for ``import``.
        closed: packages in whose place it gets ``closed.py``.
    """

    main: str
    at_start: tuple[str, ...]
    on_demand: tuple[str, ...]
    packages: tuple[str, ...]
    closed: tuple[str, ...]

    @property
    def module(self) -> str:
        """The main's name for ``import``."""
        return ".".join(("sealtune", *Path(self.main).with_suffix("").parts))


def list_file(name: str, root: Path = ROOT) -> Path:
    """Where the list of a program is."""
    return root / "programs" / f"{name}.txt"


def read_program(name: str, root: Path = ROOT) -> Program:
    """Read a program's list: each section is a line in brackets and the lines that follow."""
    sections: dict[str, list[str]] = {f"[{part}]": [] for part in SECTIONS}
    for line in list_file(name, root).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = sections[line]
        elif line:
            lines.append(line)
    (main,), *parts = sections.values()
    return Program(main, *map(tuple, parts))


class SourceOnly(SourceFileLoader):
    """Compiles a module from its source, whatever else lies beside it."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the source as it is now."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def finder_for(name: str, files: frozenset[str]) -> type[FileFinder]:
    """A path hook for the folders of sealtune: the sources ``files`` are found, all else is not."""

    class Finder(FileFinder):
        """Finds sources."""

        def __init__(self, folder: str) -> None:
            if not Path(folder).is_relative_to(ROOT):
                raise ImportError("not a folder of sealtune")
            super().__init__(folder, (SourceOnly, [".py"]))

        def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
            """Where the module is.

            Raises:
                ImportError: in a file that is not on the list, as one of another program, or one
                    that would be taken in place of one on it: Python prefers a folder ``frames/``
                    to ``frames.py``, and follows links out of the package.
            """
            spec = super().find_spec(fullname, target)
            if spec is not None and spec.origin is not None and not _belongs(Path(spec.origin)):
                message = f"{spec.origin!r} is no source file of the program {name} (make pins)"
                raise ImportError(message, name=fullname)
            return spec

    def _belongs(path: Path) -> bool:
        return path.relative_to(ROOT).as_posix() in files and path.parent.resolve() == path.parent

    return Finder


def finder_of_packages(program: Program) -> type[PathFinder]:
    """What finds sealtune, Python's library, and of others' packages those that are listed.

    Of the rest a library learns that it is not installed, and does without.
    """
    listed = {"sealtune", *sys.stdlib_module_names, *program.packages}

    class Packages(PathFinder):
        """Finds by the top of a module's name."""

        @classmethod
        def find_spec(
            cls,
            fullname: str,
            path: Sequence[str] | None = None,
            target: ModuleType | None = None,
        ) -> ModuleSpec | None:
            """Where the module is; None if it is not of a listed package."""
            top = fullname.partition(".")[0]
            if top in program.closed:
                file = str(ROOT / "closed.py")
                loader = SourceOnly(fullname, file)
                return importlib.util.spec_from_file_location(fullname, file, loader=loader)
            if top in listed or top.startswith("_sysconfigdata_"):  # Python's, and of no fixed name
                return super().find_spec(fullname, path, target)
            return None

    return Packages


def enter(name: str) -> str:
    """Let this process find the sources of one program and the packages on its list, no others.

    Returns:
        the module that is its main.
    """
    program = read_program(name)
    files = frozenset(program.at_start + program.on_demand)
    sys.path_hooks.insert(0, finder_for(name, files))
    sys.path_importer_cache.clear()
    if program.packages:
        packages = finder_of_packages(program)
        sys.meta_path[:] = [machinery.BuiltinImporter, machinery.FrozenImporter, packages]
    package = importlib.util.spec_from_file_location(
        "sealtune",
        ROOT / "__init__.py",
        loader=SourceOnly("sealtune", str(ROOT / "__init__.py")),
        submodule_search_locations=[str(ROOT)],
    )
    if package is None or package.loader is None:
        raise SystemExit(f"{ROOT} is no package")
    module = importlib.util.module_from_spec(package)
    sys.modules["sealtune"] = module
    package.loader.exec_module(module)
    return program.module


def main(arguments: list[str]) -> None:
    """Become the program."""
    name, *rest = arguments
    module = enter(name)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
