"""The picture of ``tuning.py``: right answers by set, tuner and way, as one SVG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COLOURS = {"local": "#a86400", "federated": "#0b7a4b", "pooled": "#2f6db5"}
_LEFT, _TOP, _HEIGHT, _SLOT, _STEP = 56, 64, 260, 138, 36
_STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#17212b}"
    ".soft{fill:#4d5b69}.grid{stroke:#d8dee4}.card{fill:#fff}"
    "@media (prefers-color-scheme:dark){text{fill:#e8edf2}.soft{fill:#a9b6c3}"
    ".grid{stroke:#33414e}.card{fill:#12181f}}"
)


def draw(accuracy: Mapping[str, Any]) -> str:
    """Filled marks: all rows; hollow ones: own rows; a line from the least to the most seed.

    Args:
        accuracy: set -> tuner -> way -> ``all`` and ``own`` -> ``mean``, ``seeds``; shares.
    """
    groups = [(name, tuner) for name, tuners in accuracy.items() for tuner in tuners]
    every = [
        seed
        for name, tuner in groups
        for way in accuracy[name][tuner].values()
        for rows in way.values()
        for seed in rows["seeds"]
    ]
    top = min(1.0, (int(max(every) * 10) + 1) / 10)
    width, height = _LEFT + _SLOT * len(groups) + 16, _TOP + _HEIGHT + 56
    parts = [*_frame(width, height, top), *_legend()]
    for place, (name, tuner) in enumerate(groups):
        left = _LEFT + _SLOT * place
        middle = left + _SLOT / 2
        parts.append(_text(middle, _TOP + _HEIGHT + 20, tuner, anchor="middle"))
        parts.append(_text(middle, _TOP + _HEIGHT + 38, name, anchor="middle", class_="soft"))
        for number, (way, colour) in enumerate(_COLOURS.items()):
            x = middle + (number - 1) * _STEP
            for shift, rows in ((-6, "all"), (6, "own")):
                share = accuracy[name][tuner][way][rows]
                title = f"{name}, {tuner}, {way}, {rows} rows: {100 * share['mean']:.1f} %"
                parts += _mark(x + shift, share, top, colour, title, hollow=rows == "own")
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">'
        "<title>Right answers of P-tuning v2 and LoRA: local, federated, pooled</title>"
        f"<style>{_STYLE}</style>\n{body}\n</svg>\n"
    )


def _y(share: float, top: float) -> float:
    return round(_TOP + _HEIGHT * (1 - share / top), 1)


def _frame(width: int, height: int, top: float) -> list[str]:
    """Ground, levels of ten percent and their names."""
    parts = [f'<rect class="card" width="{width}" height="{height}" rx="8"/>']
    for tenth in range(round(top * 10) + 1):
        y = _y(tenth / 10, top)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{width - 12}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{10 * tenth} %", anchor="end", class_="soft"))
    return parts


def _legend() -> list[str]:
    parts = [_text(_LEFT, 24, "Right answers on test rows; mean, least and most of the seeds")]
    x = _LEFT
    for way, colour in _COLOURS.items():
        parts.append(f'<circle cx="{x + 5}" cy="42" r="4.5" fill="{colour}"/>')
        parts.append(_text(x + 14, 46, way))
        x += 96
    for words, fill in (("all rows", "#4d5b69"), ("own rows, mean of sites", "none")):
        parts.append(f'<circle cx="{x + 5}" cy="42" r="4" fill="{fill}" stroke="#4d5b69"/>')
        parts.append(_text(x + 14, 46, words, class_="soft"))
        x += 96
    return parts


def _mark(
    x: float, share: Mapping[str, Any], top: float, colour: str, title: str, *, hollow: bool
) -> list[str]:
    low, high = _y(min(share["seeds"]), top), _y(max(share["seeds"]), top)
    fill = 'class="card"' if hollow else f'fill="{colour}"'
    y = _y(share["mean"], top)
    return [
        f'<path d="M{x} {low}V{high}" stroke="{colour}" stroke-width="1.5"/>',
        f'<circle cx="{x}" cy="{y}" r="4.5" {fill} stroke="{colour}" stroke-width="1.8">'
        f"<title>{title}</title></circle>",
    ]


def _text(x: float, y: float, words: str, *, anchor: str = "start", class_: str = "") -> str:
    named = f' class="{class_}"' if class_ else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{named}>{words}</text>'
