"""Accuracy against epsilon as an SVG file: points are means, bars reach from lowest to highest."""

from __future__ import annotations

from typing import Any

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 32, 56


def draw(rows: list[dict[str, Any]]) -> str:
    """The picture of part ``accuracy``, most private first.

    Args:
        rows: ``epsilon`` (None: infinite), ``accuracy``, ``low`` and ``high`` in percent.
    """
    rows = sorted(rows, key=lambda row: row["epsilon"] or float("inf"))
    top = min(100.0, 10.0 * (int(max(row["high"] for row in rows) // 10) + 1))
    step = (_WIDTH - _LEFT - _RIGHT) / len(rows)

    def x(place: int) -> float:
        return _LEFT + step * (place + 0.5)

    def y(percent: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * percent / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="20" font-weight="bold">Accuracy on ICD-10 chapters by epsilon, '
        "delta 1e-5</text>",
    ]
    for tick in range(0, int(top) + 1, 10):
        line = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"'
        parts.append(f'<line {line} stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    line = " ".join(f"{x(i):.1f},{y(row['accuracy']):.1f}" for i, row in enumerate(rows))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>')
    for i, row in enumerate(rows):
        span = f'x1="{x(i):.1f}" x2="{x(i):.1f}" y1="{y(row["low"]):.1f}" y2="{y(row["high"]):.1f}"'
        parts.append(f'<line {span} stroke="#1f5fa8" stroke-width="6" opacity="0.35"/>')
        parts.append(
            f'<circle cx="{x(i):.1f}" cy="{y(row["accuracy"]):.1f}" r="4" fill="#1f5fa8"/>'
        )
        shown, name = f"{row['accuracy']:.1f} %", f"{row['epsilon']:g}" if row["epsilon"] else "∞"
        middle = 'text-anchor="middle"'
        parts.append(f'<text x="{x(i):.1f}" y="{y(row["high"]) - 10:.1f}" {middle}>{shown}</text>')
        parts.append(f'<text x="{x(i):.1f}" y="{_HEIGHT - _BOTTOM + 20}" {middle}>{name}</text>')
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">'
        "epsilon (less is more private; ∞: no clipping, no noise)</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"
