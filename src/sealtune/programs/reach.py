"""The files that a program may load, worked out from the import statements of the sources.

Imports of a module's own level are followed as loaded at start, imports inside functions as loaded
on demand; those under ``if TYPE_CHECKING`` load nothing. Every import of sealtune's is an import
statement; code that imports by a computed name would not be seen here, and not be found when the
program runs.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from sealtune.start import ROOT, Program, list_file, read_program

MAINS = {
    "accelerator": "accelerator/__main__.py",
    "aggregator": "enclave/aggregator.py",
    "node": "federation/node.py",
    "owner-site": "owner/site.py",
    "relay": "federation/relay.py",
    "site-enclave": "enclave/client.py",
    "split-server": "enclave/split_trainer.py",
}


def reach(main: str, root: Path = ROOT) -> Program:
    """What the program with this main may load."""
    at_start = _closure({"start.py", main}, root, later=False)
    on_demand = _closure(at_start, root, later=True) - at_start
    return Program(main, tuple(sorted(at_start)), tuple(sorted(on_demand)))


def pin(root: Path = ROOT) -> list[str]:
    """Write each list anew; returns the programs whose list changed."""
    changed = []
    for name, main in MAINS.items():
        path, text = list_file(name, root), _as_text(reach(main, root))
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(name)
    return changed


def differences(name: str, root: Path = ROOT) -> list[str]:
    """Lines by which a program's list is not what follows from the imports, for people."""
    follows, listed = reach(MAINS[name], root), read_program(name, root)
    lines = [] if follows.main == listed.main else [f"main is {follows.main}"]
    for part in ("at_start", "on_demand"):
        new, old = set(getattr(follows, part)), set(getattr(listed, part))
        lines += [f"+ {path} ({part})" for path in sorted(new - old)]
        lines += [f"- {path} ({part})" for path in sorted(old - new)]
    return lines


def _as_text(program: Program) -> str:
    parts = ("[main]", program.main, "", "[at start]", *program.at_start, "", "[on demand]")
    return "\n".join((*parts, *program.on_demand, ""))


def _closure(files: Iterable[str], root: Path, *, later: bool) -> set[str]:
    """``files`` and what their imports lead to; ``later``: those inside functions, too."""
    reached: set[str] = set()
    waiting = set(files)
    while waiting:
        file = waiting.pop()
        reached.add(file)
        tree = ast.parse((root / file).read_bytes(), file)
        waiting |= {*_packages_of(file), *_imports(tree, root, later)} - reached
    return reached


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
