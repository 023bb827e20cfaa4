r"""Draw who sees what: trust domains as boxes, links with what they carry and the measured bytes.

Two layouts of the same parts: ``wide`` (three columns) and ``narrow`` (one column), of which the
page shows the one that fits. ``standalone()`` is the general picture of ``docs/trust-domains.svg``:

    python -c "from sealtune.report.picture import standalone as s; print(s(), end='')" \
        > docs/trust-domains.svg

Trust domain: server operator.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup

from sealtune.report import parties
from sealtune.report.numbers import size
from sealtune.report.parties import Facts, Party
from sealtune.report.svg import join, shorten, tag, wrap

LABEL = 46  # width of the column that says "sees" and "never"
LINE = 17  # height of a line of text
BODY = 12.5  # font size of body text
PAD = 14  # between a box's border and its text
GAP = 12  # between the lines of a box and a box inside it

_LIGHT = {
    "card": "#ffffff", "ink": "#17212b", "soft": "#4d5b69", "line": "#6b7885",
    "enclave": "#e3f4ec", "enclave-edge": "#0b7a4b", "owner": "#eef4fc", "owner-edge": "#2f6db5",
    "outside": "#fdf4e3", "outside-edge": "#a86400", "exposed": "#fde8e6",
    "exposed-edge": "#b3261e", "simulated": "#e3f4ec", "simulated-edge": "#b3261e",
}  # fmt: skip
_DARK = {
    "card": "#12181f", "ink": "#e8edf2", "soft": "#a9b6c3", "line": "#8c9aa8",
    "enclave": "#10352a", "enclave-edge": "#4fc793", "owner": "#16273c", "owner-edge": "#79aee8",
    "outside": "#382a12", "outside-edge": "#e3a94e", "exposed": "#451a17",
    "exposed-edge": "#ff8f85", "simulated": "#10352a", "simulated-edge": "#ff8f85",
}  # fmt: skip


def _rules(palette: dict[str, str]) -> str:
    p = palette
    kinds = "".join(
        f".tp .{k}{{fill:{p[k]};stroke:{p[k + '-edge']}}}"
        f".tp .{k}-ink,.tp text.{k}-ink{{fill:{p[k + '-edge']}}}"
        f".tp .{k}-line{{stroke:{p[k + '-edge']}}}"
        for k in ("enclave", "owner", "outside", "exposed", "simulated")
    )
    return (
        f".tp text{{fill:{p['ink']}}}{kinds}.tp .card{{fill:{p['card']}}}"
        f".tp text.soft{{fill:{p['soft']}}}.tp .link{{stroke:{p['line']}}}"
        f".tp .tip{{fill:{p['line']}}}.tp .lock,.tp .seal{{stroke:{p['enclave-edge']}}}"
    )


# explicit colours, not the page's variables: the same rules serve the picture as a file of its own
STYLE = (
    ".tp text{font:12.5px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
    ".tp text.title{font-size:15px;font-weight:650}.tp text.small{font-size:11.5px}"
    ".tp text.strong{font-weight:650}.tp text.key{font-size:11.5px;font-weight:650}"
    ".tp rect{stroke-width:1.5}.tp .enclave,.tp .simulated{stroke-width:2.5}"
    ".tp .outside,.tp .exposed,.tp .simulated{stroke-dasharray:6 4}"
    ".tp .link{stroke-width:1.6;fill:none}"
    ".tp .seal{stroke-width:1.4;stroke-dasharray:2 4;fill:none}"
    ".tp .lock{fill:none;stroke-width:2}"
    f"{_rules(_LIGHT)}@media screen and (prefers-color-scheme:dark){{{_rules(_DARK)}}}"
)


@dataclass
class Box:
    """A party's box, perhaps with another box inside, below its text.

    ``place`` fixes position and width; height follows from the text.
    """

    party: Party
    inner: Box | None = None
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    parts: list[Markup] = field(default_factory=list)

    def place(self, x: float, y: float, width: float) -> Box:
        """Lay out the text, and the inner box with it."""
        self.x, self.y, self.width, self.parts = x, y, width, []
        left, below = x + PAD, y + 26
        shift = 20 if self.party.kind == "enclave" else 0  # no padlock on a simulated one
        title = shorten(self.party.title, 16, width - 2 * PAD - shift)  # 16: bold is wider
        self.parts.append(tag("text", title, x=left + shift, y=below, class_="title"))
        if shift:
            self.parts.append(_lock(left, below))
        for line in wrap(self.party.trust, 11.5, width - 2 * PAD):
            below += LINE - 1
            ink = f"small {self.party.kind}-ink"
            self.parts.append(tag("text", line, x=left, y=below, class_=ink))
        below += 4
        for key, words in (("sees", self.party.sees), ("never", self.party.never)):
            for i, line in enumerate(wrap(words, BODY, width - 2 * PAD - LABEL)):
                below += LINE
                if i == 0:
                    self.parts.append(tag("text", key, x=left, y=below, class_="key soft"))
                self.parts.append(tag("text", line, x=left + LABEL, y=below))
            below += 3
        if self.inner:
            self.inner.place(x + GAP, below + GAP - 2, width - 2 * GAP)
            below = self.inner.bottom
        self.height = below + GAP - y
        return self

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.y + self.height

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x + self.width

    @property
    def middle(self) -> float:
        """Height of the centre line."""
        return self.y + self.height / 2

    def draw(self) -> Markup:
        """The box, its text, then what lies inside."""
        frame = tag(
            "rect", x=self.x, y=self.y, width=self.width, height=self.height, rx=8,
            class_=self.party.kind,
        )  # fmt: skip
        return tag("g", frame, *self.parts, *([self.inner.draw()] if self.inner else []))


@dataclass(frozen=True)
class Columns:
    """Left edges and widths of sites, carrier and server."""

    width: int
    site: tuple[float, float]
    carrier: tuple[float, float]
    host: tuple[float, float]


ROOMY = Columns(1060, (16, 348), (466, 176), (744, 300))
TIGHT = Columns(940, (16, 300), (416, 174), (690, 234))  # larger letters at the same page width


def wide(facts: Facts, columns: Columns = ROOMY) -> Markup:
    """Sites left, carrier in the middle, server right, accelerator below the sites."""
    enclave, server = Box(parties.client_enclave(facts)), Box(parties.server_enclave(facts))
    left, width = columns.site
    site = Box(parties.owner(facts), enclave).place(left, 16, width)
    host = Box(parties.operator(facts), server).place(columns.host[0], 16, columns.host[1])
    bottom = max(site.bottom, host.bottom)
    site, host = _grow(site, bottom), _grow(host, bottom)
    top, start = max(enclave.y, server.y), columns.carrier[0]
    flower = Box(parties.network(facts)).place(start, top + 34, columns.carrier[1])
    link = min(enclave.bottom, server.bottom) - 26
    helper = Box(parties.accelerator(facts)).place(left + GAP, bottom + 66, width - 2 * GAP)
    if facts.protect == parties.ADAPTER:  # the owner's own machine stands on the owner's ground
        site.height = helper.bottom + GAP - site.y
    foot = max(bottom, flower.bottom) + 34
    height = max(site.bottom, helper.bottom, foot + 118) + 16
    drawn = [
        *(b.draw() for b in (site, host, flower, helper)),
        _across((enclave.right, site.right), (flower.x, flower.x), link, facts),
        _across((flower.right, flower.right), (server.x, host.x), link, facts),
        _down(enclave.x + 40, enclave.bottom, helper.y, parties.link_words(facts), facts),
        _handshake(enclave.right, server.x, top + 18),
        key(start, foot, columns.width - start - 16, facts),
    ]
    return svg(columns.width, height, drawn, "wide")


def narrow(facts: Facts) -> Markup:
    """One column: server, carrier, site, accelerator, key."""
    enclave, server = Box(parties.client_enclave(facts)), Box(parties.server_enclave(facts))
    host = Box(parties.operator(facts), server).place(16, 16, 488)
    flower = Box(parties.network(facts)).place(28, host.bottom + 62, 464)
    site = Box(parties.owner(facts), enclave).place(16, flower.bottom + 62, 488)
    helper = Box(parties.accelerator(facts)).place(28, site.bottom + 66, 464)
    if facts.protect == parties.ADAPTER:
        site.height = helper.bottom + GAP - site.y
    foot = max(site.bottom, helper.bottom) + 18
    sealed = ("sealed frames", "sealed frames")
    drawn = [
        *(b.draw() for b in (host, flower, site, helper)),
        _down(68, server.bottom, flower.y, sealed, facts, carrier=True),
        _down(68, flower.bottom, site.y, sealed, facts, carrier=True),
        _down(68, enclave.bottom, helper.y, parties.link_words(facts), facts),
        key(28, foot, 464, facts),
    ]
    return svg(520, foot + 130, drawn, "narrow")


def standalone() -> str:
    """The general picture as a file of its own, on its own ground, for light and dark pages."""
    drawn = str(wide(Facts(), TIGHT)).replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
    )
    return drawn.replace("</title>", f"</title><style>{STYLE}</style>", 1) + "\n"


def _grow(box: Box, bottom: float) -> Box:
    """Stretch a box to a common lower edge; what is inside moves down with it."""
    added = bottom - box.bottom
    box.height += added
    if box.inner:
        box.inner.place(box.inner.x, box.inner.y + added, box.inner.width)
    return box


def svg(width: int, height: float, drawn: list[Markup], class_: str) -> Markup:
    """The whole picture on its ground."""
    title = "Who sees what: trust domains of a sealtune run and what crosses between them"
    ground = tag("rect", width=width, height=height, rx=10, class_="card")
    return tag(
        "svg", tag("title", title), ground, *drawn,
        class_=f"tp {class_}", viewBox=f"0 0 {width} {height:.0f}", width=width,
        height=f"{height:.0f}",
    )  # fmt: skip


def _lock(x: float, y: float) -> Markup:
    """A padlock whose foot stands on the text's base line."""
    bow = tag("path", d=f"M{x + 2.5:.1f} {y - 6:.1f}v-3a3.5 3.5 0 0 1 7 0v3", class_="lock")
    body = tag("rect", x=x, y=y - 6.5, width=12, height=8.5, rx=1.5, class_="enclave-ink")
    return join([bow, body])


def arrow(x1: float, y1: float, x2: float, y2: float) -> Markup:
    """A straight arrow, horizontal or vertical."""
    dx, dy = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    line = tag("path", d=f"M{x1:.1f} {y1:.1f}L{x2 - 5 * dx:.1f} {y2 - 5 * dy:.1f}", class_="link")
    a, b = (
        (x2 - 8 * dx - 4 * dy, y2 - 8 * dy - 4 * dx),
        (x2 - 8 * dx + 4 * dy, y2 - 8 * dy + 4 * dx),
    )
    tip = f"M{x2:.1f} {y2:.1f}L{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}Z"
    return join([line, tag("path", d=tip, class_="tip")])


def _across(
    left: tuple[float, float], right: tuple[float, float], y: float, facts: Facts
) -> Markup:
    """Both ways between two boxes side by side, with the sealed bytes.

    ``left`` and ``right`` are the edge that the arrows touch and the edge of the box around it.
    """
    start, end, centre = left[0] + 5, right[0] - 5, (left[1] + right[1]) / 2
    words = [("sealed frames", y - 32, "strong small")]
    if facts.measured:
        words += [(size(facts.up), y - 14, "small"), (size(facts.down), y + 26, "small")]
    texts = (
        tag("text", w, x=centre, y=at, class_=class_, text_anchor="middle")
        for w, at, class_ in words
    )
    return join([arrow(start, y - 7, end, y - 7), arrow(end, y + 9, start, y + 9), *texts])


def _down(
    x: float,
    y1: float,
    y2: float,
    words: tuple[str, str],
    facts: Facts,
    *,
    carrier: bool = False,
) -> Markup:
    """Both ways between two boxes one above the other; ``words`` belong to (down, up).

    ``carrier``: a link of the network, drawn with the server above.
    """
    amounts = (facts.down, facts.up) if carrier else (facts.out, facts.back)
    return lines_between(x, y1, y2, words, amounts if facts.measured else None)


def lines_between(
    x: float,
    y1: float,
    y2: float,
    words: tuple[str, str],
    amounts: tuple[float | None, float | None] | None,
) -> Markup:
    """Arrows both ways between two boxes, with words and bytes for (down, up)."""
    middle = (y1 + y2) / 2
    lines = []
    for i, (way, dy) in enumerate((("↓", -4), ("↑", 13))):
        measured = f" · {size(amounts[i])}" if amounts else ""
        said = f"{way} {words[i]}{measured}"
        lines.append(tag("text", said, x=x + 36, y=middle + dy, class_="small"))
    return join([arrow(x, y1 + 3, x, y2 - 3), arrow(x + 18, y2 - 3, x + 18, y1 + 3), *lines])


def _handshake(x1: float, x2: float, y: float) -> Markup:
    """Enclave to enclave, over the carrier's head: attestation and keys."""
    centre = (x1 + x2) / 2
    words = ("each attests the other;", "keys pass sealed, enclave to enclave")
    texts = [
        tag("text", w, x=centre, y=y - 24 + 15 * i, class_="small soft", text_anchor="middle")
        for i, w in enumerate(words)
    ]
    return join([tag("path", d=f"M{x1 + 4:.1f} {y:.1f}H{x2 - 4:.1f}", class_="seal"), *texts])


def key(
    x: float, y: float, width: float, facts: Facts, not_hidden: str = parties.NOT_HIDDEN
) -> Markup:
    """What the borders mean, and what is hidden from nobody."""
    enclave = (
        ("simulated", "simulated enclave: stands for a real one, keeps nobody out")
        if facts.simulated
        else ("enclave", "enclave: trusted once its evidence was accepted")
    )
    rows = (
        enclave,
        ("owner", "the data owner’s own ground"),
        ("outside", "untrusted: gets only what its box lists"),
    )
    parts: list[Markup] = []
    for i, (kind, words) in enumerate(rows):
        top = y + 24 * i
        parts.append(tag("rect", x=x, y=top, width=26, height=15, rx=3, class_=kind))
        parts.append(tag("text", words, x=x + 36, y=top + 12, class_="small"))
    below = y + 24 * len(rows) + 14
    text = f"Hidden from nobody on the path: {not_hidden}."
    for i, line in enumerate(wrap(text, 11.5, width)):
        parts.append(tag("text", line, x=x, y=below + 16 * i, class_="small soft"))
    return join(parts)
