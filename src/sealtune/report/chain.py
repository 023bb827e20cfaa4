"""Draw the trust chain: who checked whose evidence, of which kind, and when.

One row for each site: its enclave, the server enclave, and an arrow for each verdict, from the one
who proved something to the one who checked it. Red and broken means that the evidence protects
nothing, or was not bound to this job; a gap means that no verdict was recorded.

A site of a split job is no enclave: its arrow is a signature by its key, in the colour of the data
owner's ground; what protects is the arrow back.

Trust domain: server operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from sealtune.report.evidence import PARTICIPANT, SERVER, Attested
from sealtune.report.numbers import moment
from sealtune.report.svg import join, shorten, tag

WIDTH, MARGIN, BOX, ROW, TALL = 960, 8, 180, 84, 68


def draw(
    verdicts: Sequence[Attested], sites: Sequence[str], *, signed: bool, split: bool = False
) -> Markup:
    """The picture as an SVG element.

    Args:
        verdicts: what was checked.
        sites: of the job, one row each.
        signed: whether a manifest signed by every participant is part of the run.
        split: whether the sites are participants with a key instead of enclaves.
    """
    found = {(v.by, v.who): v for v in verdicts}
    top = 34 if signed else 6
    height = top + ROW * len(sites)
    rows = [_row(site, top + ROW * i, found, split) for i, site in enumerate(sites)]
    of_server = [found.get((site, SERVER)) for site in sites]
    worst = next((v for v in of_server if _kind(v) != "enclave"), *of_server[:1])
    role = "training enclave" if split else "aggregator enclave"
    server = _box(WIDTH - MARGIN - BOX, top, "server", role, _kind(worst), len(sites))
    words = "both ends hold the SHA-384 of the signed manifest, the job id"
    note = tag("text", words, x=WIDTH / 2, y=20, class_="small soft", text_anchor="middle")
    title = tag("title", "Trust chain: who checked whose evidence")
    return tag(
        "svg", title, *([note] if signed else []), *rows, server, class_="tp chain",
        viewBox=f"0 0 {WIDTH} {height}", width=WIDTH, height=height,
    )  # fmt: skip


def _row(site: str, y: float, found: dict[tuple[str, str], Attested], split: bool) -> Markup:
    left_edge, right_edge = MARGIN + BOX, WIDTH - MARGIN - BOX
    by_server, by_site = found.get((SERVER, site)), found.get((site, SERVER))
    role, kind = "enclave of the site", _kind(by_server)
    if split:
        role, kind = "participant key, no TEE", "owner"
    return join(
        [
            _box(MARGIN, y, site, role, kind),
            _proof(left_edge + 6, right_edge - 6, y + 24, by_server, "server checked the site"),
            _proof(right_edge - 6, left_edge + 6, y + 56, by_site, "site checked the server"),
        ]
    )


def _box(x: float, y: float, name: str, role: str, kind: str, rows: int = 1) -> Markup:
    height = TALL + ROW * (rows - 1)
    return join(
        [
            tag("rect", x=x, y=y, width=BOX, height=height, rx=8, class_=kind),
            tag("text", shorten(name, 16, BOX - 24), x=x + 12, y=y + 28, class_="title"),
            tag("text", role, x=x + 12, y=y + 48, class_="small soft"),
        ]
    )


def _proof(x1: float, x2: float, y: float, verdict: Attested | None, words: str) -> Markup:
    """An arrow from prover to verifier with kind and time above it."""
    kind = _kind(verdict)
    if verdict is None:
        said = f"{words}: not recorded"
        line = Markup("")
    else:
        shown = "signature by its key" if kind == "owner" else verdict.kind or "unknown"
        safe = ", protects nothing" if kind == "simulated" else ""
        said = f"{words}: {shown}{safe}, {moment(verdict.time)}"
        back = 8 if x2 > x1 else -8
        line = join(
            [
                tag(
                    "path",
                    d=f"M{x1:.1f} {y:.1f}H{x2 - back:.1f}",
                    class_=f"{kind}-line",
                    stroke_width=1.6,
                ),
                tag(
                    "path",
                    d=f"M{x2:.1f} {y:.1f}L{x2 - back:.1f} {y - 4:.1f}V{y + 4:.1f}Z",
                    class_=f"{kind}-ink",
                ),
            ]
        )
    text = tag(
        "text", said, x=(x1 + x2) / 2, y=y - 7, class_=f"small {kind}-ink", text_anchor="middle"
    )
    return join([line, text])


def _kind(verdict: Attested | None) -> str:
    """How a verdict is coloured: as an enclave only if hardware vouches for this job.

    A participant's signature under this job is right as it is, and is no evidence.
    """
    if verdict is not None and verdict.kind == PARTICIPANT and verdict.same_job is not False:
        return "owner"
    good = verdict is not None and verdict.confidential and verdict.same_job
    return "enclave" if good else "simulated"
