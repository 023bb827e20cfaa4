"""The files that a program may load, worked out from the import statements of the sources.

Imports of a module's own level are followed as loaded at start, imports inside functions as loaded
on demand; those under ``if TYPE_CHECKING`` load nothing. With a package go the C sources in
it, from which the library that its modules load was built. Every import of sealtune's is an import
statement; code that imports by a computed name would not be seen here, and not be found when the
program runs.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path

from sealtune.start import ROOT, SECTIONS, Program, list_file, read_program

MAINS = {
    "accelerator": "accelerator/__main__.py",
    "aggregator": "enclave/aggregator.py",
    "link": "federation/link.py",
    "node": "federation/node.py",
    "owner-site": "owner/site.py",
    "owner-trainer": "owner/trainer.py",
    "pad-accelerator": "pad_accelerator/__main__.py",
    "relay": "federation/relay.py",
    "secagg-server": "methods/secure_aggregation/__main__.py",
    "site-enclave": "enclave/client.py",
    "split-server": "enclave/split_trainer.py",
}

_C = (".c", ".h")


def reach(name: str, root: Path = ROOT) -> Program:
    """What a program may load; its packages are those that its list names."""
    path, main = list_file(name, root), MAINS[name]
    listed = read_program(name, root) if path.is_file() else Program(main, (), (), (), ())
    at_start = _closure({"start.py", main}, root, later=False)
    stands_in = {"closed.py"} if listed.closed else set()  # loaded when others' packages ask
    on_demand = _closure(at_start | stands_in, root, later=True) - at_start
    return listed._replace(
        main=main, at_start=tuple(sorted(at_start)), on_demand=tuple(sorted(on_demand))
    )


def pin(root: Path = ROOT) -> list[str]:
    """Write each list anew, but for its packages; returns the programs whose list changed."""
    changed = []
    for name in MAINS:
        path, text = list_file(name, root), _as_text(reach(name, root))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed


def differences(name: str, root: Path = ROOT) -> list[str]:
    """Lines by which a program's list is not what follows from the imports, for people."""
    old, new = (_as_text(read(name, root)).splitlines() for read in (read_program, reach))
    return [line for line in difflib.unified_diff(old, new, lineterm="", n=0) if line[0] in "+-"]


def _as_text(program: Program) -> str:
    parts = ((program.main,), *program[1:])
    sections = zip(SECTIONS, parts, strict=True)
    return "\n\n".join("\n".join((f"[{name}]", *lines)) for name, lines in sections) + "\n"


def _closure(files: Iterable[str], root: Path, *, later: bool) -> set[str]:
    """``files`` and what their imports lead to; ``later``: those inside functions, too."""
    reached: set[str] = set()
    waiting = set(files)
    while waiting:
        file = waiting.pop()
        reached.add(file)
        if file.endswith(_C):
            continue
        tree = ast.parse((root / file).read_bytes(), file)
        found = {*_packages_of(file), *_imports(tree, root, later)}
        if Path(file).name == "__init__.py":
            found |= {*_c_sources(file, root)}
        waiting |= found - reached
    return reached


def _c_sources(package: str, root: Path) -> Iterator[str]:
    for path in (root / package).parent.iterdir():
        if path.name.endswith(_C):
            yield path.relative_to(root).as_posix()


def _packages_of(file: str) -> Iterator[str]:
    return ((folder / "__init__.py").as_posix() for folder in Path(file).parents)


def _imports(tree: ast.Module, root: Path, later: bool) -> Iterator[str]:
    for node in _statements(tree.body, later):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            # a name may be a module of the package, or something that the package defines
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        for name in names:
            top, *parts = name.split(".")
            if top == "sealtune" and parts:
                for path in (Path(*parts, "__init__.py"), Path(*parts).with_suffix(".py")):
                    if (root / path).is_file():
                        yield path.as_posix()


def _statements(nodes: Iterable[ast.AST], later: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and _is_for_types(node.test):
            yield from _statements(node.orelse, later)
        elif later or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _statements(ast.iter_child_nodes(node), later)


def _is_for_types(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
