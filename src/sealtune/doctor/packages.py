"""Python and the packages of a role's programs, against what sealtune is tested with.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence

from sealtune.doctor.finding import Finding, State, found
from sealtune.start import ROOT, list_file, read_program

_PYTHON = ((3, 11), (3, 14))  # as in pyproject.toml: from, below
_INSTALL = "python -m pip install sealtune, into an environment of its own"


def python() -> Finding:
    """The interpreter."""
    low, high = _PYTHON
    version = platform.python_version()
    fits = low <= sys.version_info[:2] < high
    remedy = "Python {}.{} or later, below {}.{}".format(*low, *high)
    return found("python", fits, f"Python {version}", remedy, value=version)


def packages(programs: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Whether each role's programs find what they import when they start; and versions.

    Args:
        programs: role -> its programs; those without a list are left out.
    """
    return [*(_of_role(role, names) for role, names in programs.items()), _versions()]


def _of_role(role: str, programs: Sequence[str]) -> Finding:
    needed = {
        top
        for program in programs
        if list_file(program, ROOT).is_file()
        for file in read_program(program).at_start
        if file.endswith(".py")
        for top in _imported((ROOT / file).read_bytes())
    }
    absent = tuple(sorted(name for name in needed if not _is_there(name)))
    words = f"packages for {role}: " + (f"no {', '.join(absent)}" if absent else "there")
    return found(f"packages.{role}", not absent, words, _INSTALL, value=absent)


def _imported(source: bytes) -> Iterator[str]:
    """Others' packages that a file imports at its own level; not those for types alone."""
    for node in ast.parse(source).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            if top != "sealtune" and top not in sys.stdlib_module_names:
                yield top


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _versions() -> Finding:
    """Every version against those that sealtune's own metadata ask for."""
    key = "versions"
    try:
        from packaging.requirements import Requirement

        pins = [Requirement(line) for line in importlib.metadata.requires("sealtune") or []]
    except ImportError as error:  # of either
        return Finding(key, State.UNKNOWN, f"versions were not compared: {error}", _INSTALL)
    pins = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"extra": ""})]
    wrong = []
    for pin in pins:
        try:
            version = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{pin.name} is not installed")
            continue
        if not pin.specifier.contains(version, prereleases=True):
            wrong.append(f"{pin.name} {version}, not {pin.specifier}")
    words = "; ".join(wrong) or f"{len(pins)} packages in tested versions"
    return found(key, not wrong, words, _INSTALL, value=tuple(wrong))
