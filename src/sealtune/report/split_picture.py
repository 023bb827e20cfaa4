"""Draw who sees what in a split job: text stays left, cut activations go once to the right.

Same parts and same two layouts as ``picture.py``.

Trust domain: server operator.
"""

from __future__ import annotations

from markupsafe import Markup

from sealtune.report import split_parties as parties
from sealtune.report.numbers import size
from sealtune.report.parties import Facts, network
from sealtune.report.picture import Box, arrow, key, lines_between, svg
from sealtune.report.svg import tag

WIDTH = 1060


def wide(facts: Facts) -> Markup:
    """Owners left, carrier in the middle, server right."""
    server = Box(parties.server_enclave(facts))
    host = Box(parties.operator(facts), server).place(696, 16, 348)
    flower = Box(network(facts)).place(418, server.y, 176)
    site = Box(parties.owner(facts)).place(16, 16, 300)
    site.place(16, max(16, server.middle - site.height / 2), 300)  # the links leave at its middle
    bottom = max(site.bottom, host.bottom, flower.bottom + 76)
    up, down = server.middle - 18, server.middle + 28
    drawn = [
        *(box.draw() for box in (site, host, flower)),
        *_across(site.right + 5, flower.x - 5, up, down, facts),
        *_across(flower.right + 5, server.x - 5, up, down, facts),
        *_sealed(site.right, server.x, flower.bottom, facts),
        key(16, bottom + 22, WIDTH - 32, facts, parties.NOT_HIDDEN),
    ]
    return svg(WIDTH, bottom + 130, drawn, "wide")


def narrow(facts: Facts) -> Markup:
    """One column: server, carrier, owners, key."""
    server = Box(parties.server_enclave(facts))
    host = Box(parties.operator(facts), server).place(16, 16, 488)
    flower = Box(network(facts)).place(28, host.bottom + 66, 464)
    site = Box(parties.owner(facts)).place(16, flower.bottom + 66, 488)
    up, down = parties.link_words(facts)
    drawn = [
        *(box.draw() for box in (host, flower, site)),
        lines_between(68, server.bottom, flower.y, (down, up), (facts.down, facts.up)),
        lines_between(68, flower.bottom, site.y, ("sealed", "sealed"), (facts.down, facts.up)),
        key(28, site.bottom + 18, 464, facts, parties.NOT_HIDDEN),
    ]
    return svg(520, site.bottom + 148, drawn, "narrow")


def _across(start: float, end: float, up: float, down: float, facts: Facts) -> list[Markup]:
    """Arrows both ways, with the sealed bytes on them."""
    centre = (start + end) / 2
    drawn = [arrow(start, up, end, up), arrow(end, down, start, down)]
    if facts.measured:
        for amount, y in ((facts.up, up - 9), (facts.down, down + 18)):
            text = tag("text", size(amount), x=centre, y=y, class_="small", text_anchor="middle")
            drawn.append(text)
    return drawn


def _sealed(left: float, right: float, top: float, facts: Facts) -> list[Markup]:
    """Below the carrier: what is in the frames."""
    centre = (left + right) / 2
    up, down = parties.link_words(facts)
    words = (("sealed, once for each sample:", "small soft"), (f"→ {up}", "small strong"),
             (f"← {down}", "small strong"))  # fmt: skip
    return [
        tag("text", said, x=centre, y=top + 24 + 19 * i, class_=class_, text_anchor="middle")
        for i, (said, class_) in enumerate(words)
    ]
