"""The structure that ARCHITECTURE.md describes."""

from __future__ import annotations

import grimp
import pytest

Imports = dict[str, set[str]]


@pytest.fixture(scope="module")
def imports() -> Imports:
    graph = grimp.build_graph("sealtune", exclude_type_checking_imports=True, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_no_module_imports_itself_by_way_of_others(imports: Imports) -> None:
    left = dict(imports)
    while leaves := [m for m, needs in left.items() if not needs & left.keys()]:
        for module in leaves:
            del left[module]
    while outer := [m for m in left if not any(m in needs for needs in left.values())]:
        for module in outer:
            del left[module]
    assert sorted(left) == []


def test_a_cycle_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        test_no_module_imports_itself_by_way_of_others({"a": {"b"}, "b": {"a"}, "c": {"a"}})
