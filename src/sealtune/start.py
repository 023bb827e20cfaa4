"""Starts one of sealtune's programs with nothing foreign on the way.

    python -I -B start.py PROGRAM [ARGUMENT...]        PROGRAM such as sealtune.enclave.client

``-I`` leaves out the current folder, the user's packages and every ``PYTHON...`` variable. Here,
the package sealtune is taken from the folder of this file and from nowhere else; its modules are
compiled from their sources, so neither a stale or planted ``.pyc`` nor an extension module decides
what runs; and a program finds the rooms of its own trust domain only, which for enclaves and data
owners are those that the code digest covers.

Trust domain: every program; measured with the enclaves.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parent
FILES = ("__init__.py", "errors.py", "frames.py", "memory.py", "start.py")
_ENCLAVE = ("attest", "channel", "data", "enclave", "job", "model", "offload", "plan", "tuning")
# what a program may load, by the room that it is in
ROOMS = {
    "enclave": _ENCLAVE,
    "owner": (*_ENCLAVE, "owner"),
    "accelerator": ("accelerator", "offload"),
    "federation": ("federation",),
}


class SourceOnly(SourceFileLoader):
    """Compiles a module from its source, whatever else lies beside it."""

    def get_code(self, fullname: str) -> CodeType:
        """The code of the source as it is now."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def finder_for(rooms: tuple[str, ...]) -> type[FileFinder]:
    """A path hook for the folders of sealtune: sources of ``rooms`` are found, all else is not."""

    class Finder(FileFinder):
        """Finds sources; refuses rooms of other programs by finding nothing in them."""

        def __init__(self, folder: str) -> None:
            inside = Path(folder)
            if not inside.is_relative_to(ROOT):
                raise ImportError("not a folder of sealtune")
            parts = inside.relative_to(ROOT).parts
            allowed = not parts or parts[0] in rooms
            super().__init__(folder, *([(SourceOnly, [".py"])] if allowed else []))

        def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
            """Where the module is.

            Raises:
                ImportError: in a file that the code digest does not cover: Python prefers a folder
                    ``frames/`` to ``frames.py``, and follows links out of the package.
            """
            spec = super().find_spec(fullname, target)
            if spec is not None and spec.origin is not None and not _belongs(Path(spec.origin)):
                message = f"{spec.origin!r} is no source file of this program"
                raise ImportError(message, name=fullname)
            return spec

    def _belongs(path: Path) -> bool:
        parts = path.relative_to(ROOT).parts
        known = path.name in FILES if len(parts) == 1 else parts[0] in rooms
        return known and path.parent.resolve() == path.parent

    return Finder


def main(arguments: list[str]) -> None:
    """Become the program."""
    program, *rest = arguments
    room = program.split(".")[1]
    sys.path_hooks.insert(0, finder_for(ROOMS[room]))
    sys.path_importer_cache.clear()
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
    sys.argv = [program, *rest]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
