"""The list of each program is what follows from its imports, and what Python really loads."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from sealtune.attest.measure import program_digest
from sealtune.attest.platforms.simulated import MEASURED
from sealtune.programs.facts import loaded
from sealtune.programs.reach import MAINS, differences, pin, reach
from sealtune.start import ROOT, list_file, read_program

modules_of = functools.cache(loaded)


@pytest.mark.parametrize("name", MAINS)
def test_each_list_is_what_follows_from_the_imports(name: str) -> None:
    assert differences(name) == [], "run `make pins` and look at what changed"


@pytest.mark.parametrize("name", MAINS)
def test_each_program_really_loads_what_its_list_says(name: str) -> None:
    files = [Path(file) for file in modules_of(name).values() if file]
    own = {file.relative_to(ROOT).as_posix() for file in files if file.is_relative_to(ROOT)}
    listed = {file for file in read_program(name).at_start if file.endswith(".py")}  # C is built
    assert own - {"closed.py"} | {"start.py"} == listed


# what has no business where plaintext is
BANNED = {
    "aiohttp", "anyio", "boto3", "h11", "h2", "httpcore", "httpcore2", "httpx", "httpx2", "jinja2",
    "psutil", "requests", "scipy", "tomllib", "trio", "truststore", "urllib3",
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_no_enclave_loads_a_client_of_servers_or_what_it_has_no_use_for(name: str) -> None:
    modules = {top: file for top, file in modules_of(name).items() if "." not in top}
    assert {top for top in modules if modules[top] != str(ROOT / "closed.py")} & BANNED == set()
    assert not BANNED & set(read_program(name).packages)


@pytest.mark.parametrize("name", MEASURED)
def test_packages_are_listed_once_and_in_order(name: str) -> None:
    packages = read_program(name).packages
    assert list(packages) == sorted(set(packages))


def test_there_is_a_list_for_each_program_and_no_other() -> None:
    assert {path.name for path in list_file("x").parent.glob("*.txt")} == {
        f"{name}.txt" for name in MAINS
    }


def tree(root: Path, files: dict[str, str]) -> Path:
    """A package of these files and what goes with them."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in Path(name).parents:
            (root / folder / "__init__.py").touch()
    (root / "start.py").touch()
    (root / "programs").mkdir()
    return root


def test_where_an_import_stands_decides_when_it_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = """
from typing import TYPE_CHECKING
import os, sealtune.a.plain
from sealtune.b import module, CONSTANT
if TYPE_CHECKING:
    from sealtune.never import x
else:
    import sealtune.a.otherwise
try:
    from sealtune.a.tried import x
except ImportError:
    pass
class C:
    import sealtune.a.inside
    def method(self):
        from sealtune.a import later
        if True:
            import sealtune.a.nested
"""
    empty = (
        "a/plain.py", "a/otherwise.py", "a/tried.py", "a/inside.py", "a/nested.py", "b/module.py",
        "c/deep.py", "d/unused.py", "never.py",
    )  # fmt: skip
    later = "import sealtune.c.deep"
    root = tree(tmp_path, {"main.py": main, "a/later.py": later} | dict.fromkeys(empty, ""))
    monkeypatch.setitem(MAINS, "relay", "main.py")
    found = reach("relay", root)
    assert set(found.at_start) == {
        "start.py", "main.py", "__init__.py", "a/__init__.py", "b/__init__.py", "a/plain.py",
        "b/module.py", "a/otherwise.py", "a/tried.py", "a/inside.py",
    }  # fmt: skip
    assert found.on_demand == ("a/later.py", "a/nested.py", "c/__init__.py", "c/deep.py")


def test_a_new_import_is_told_and_pinned(tmp_path: Path) -> None:
    root = tree(tmp_path, dict.fromkeys((*MAINS.values(), "more/helper.py"), ""))
    assert sorted(pin(root)) == sorted(MAINS)
    assert pin(root) == []
    before = {name: program_digest(name, root) for name in MEASURED}
    (root / "enclave" / "aggregator.py").write_text("import sealtune.more.helper\n")
    assert differences("aggregator", root)[2:] == ["+more/__init__.py", "+more/helper.py"]
    assert pin(root) == ["aggregator"]
    assert differences("aggregator", root) == []
    after = {name: program_digest(name, root) for name in MEASURED}
    assert [name for name in MEASURED if before[name] != after[name]] == ["aggregator"]


def test_nothing_is_imported_by_a_computed_name() -> None:
    """Such an import would be on no list."""
    for name in MAINS:
        listed = read_program(name)
        for file in {*listed.at_start, *listed.on_demand} - {"start.py"}:
            text = (ROOT / file).read_text()
            assert not re.search(r"__import__|import_module\((?!\"(?!sealtune))", text), file
