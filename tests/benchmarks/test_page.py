"""The page of results: one section at a time, the same bytes again, and plots likewise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import page  # noqa: E402

EMPTY = """# Title

<!-- a: begin -->
<!-- a: end -->

By hand.

<!-- b: begin -->
old
<!-- b: end -->
"""


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    (tmp_path / "benchmarks.md").write_text(EMPTY)
    return tmp_path


def test_a_section_is_replaced_and_nothing_else(docs: Path) -> None:
    page.write_section("b", "new\n")
    once = (docs / "benchmarks.md").read_bytes()
    page.write_section("b", "new")
    assert (docs / "benchmarks.md").read_bytes() == once
    assert once.decode() == EMPTY.replace("\nold\n", "\n\nnew\n\n")


def test_an_unknown_section_is_refused(docs: Path) -> None:
    with pytest.raises(ValueError, match="c: begin"):
        page.write_section("c", "text")
    assert (docs / "benchmarks.md").read_text() == EMPTY


def test_a_table_in_markdown() -> None:
    made = page.markdown_table(("set", "%"), [("hpo", 1.5)])
    assert made == "| set | % |\n| --- | ---: |\n| hpo | 1.5 |"


def test_a_plot_has_the_same_bytes_again(docs: Path) -> None:
    pytest.importorskip("matplotlib")
    written = []
    for _ in range(2):
        figure, axes = page.plot()
        axes.plot([1, 2], [3, 4], label="line")
        axes.legend()
        page.write_plot("p", figure)
        written.append((docs / "p.svg").read_bytes())
    assert written[0] == written[1]
    assert b"<dc:date>" not in written[0]


def test_the_project_has_a_page_with_every_section() -> None:
    text = (BENCHMARKS.parent / "docs" / page.PAGE).read_text()
    for name in (
        "table-1",
        "table-2",
        "table-3",
        "recipes",
        "convergence",
        "peers",
        "scale",
        "audit",
    ):
        assert text.count(f"<!-- {name}: begin -->\n") == text.count(f"<!-- {name}: end -->\n") == 1
