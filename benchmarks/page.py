"""The page of results, ``docs/benchmarks.md``, and its plots: from stored jobs, byte for byte.

    write_section("table-1", markdown_table(("set", "accuracy"), rows) + "\\n\\n" + words)
    figure, axes = plot()
    write_plot("convergence", figure)          # docs/convergence.svg

Each section stands between two comments, which name it; the rest of the page is written by hand.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealtune.job.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1] / "docs"
PAGE = "benchmarks.md"


def write_section(name: str, markdown: str) -> None:
    """Replace a section of the page.

    Raises:
        ValueError: the page has no such section, or has it twice.
    """
    path = DOCS / PAGE
    text = path.read_text(encoding="utf-8")
    begin, end = (f"<!-- {name}: {which} -->\n" for which in ("begin", "end"))
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{PAGE} needs one line {begin.strip()} and one {end.strip()}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not after and not text.endswith(end):
        raise ValueError(f"{PAGE}: section {name} ends before it begins")
    write_atomic(path, f"{before}{begin}\n{markdown.strip()}\n\n{end}{after}".encode())


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; all columns but the first are set to the right."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (columns, rule, *rows))


def plot(rows: int = 1, columns: int = 1, *, width: float = 9, height: float = 4) -> Any:
    """``(figure, axes)`` as of ``pyplot.subplots``, without a screen and in the page's style.

    Args:
        rows, columns: of axes.
        width, height: in inches.
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
         "grid.color": "#d8dee4", "font.size": 9, "svg.fonttype": "none",
         "font.family": ["sans-serif"], "legend.frameon": False, "axes.axisbelow": True}
    )  # fmt: skip
    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def write_plot(name: str, figure: Figure) -> None:
    """Write ``docs/NAME.svg``: the same bytes for the same figure."""
    import matplotlib as mpl
    from matplotlib import pyplot

    svg = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    # matplotlib leaves spaces at ends of lines
    lines = (line.rstrip() for line in svg.getvalue().decode().splitlines())
    write_atomic(DOCS / f"{name}.svg", ("\n".join(lines) + "\n").encode())
