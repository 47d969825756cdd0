"""The gate's picture: every comparison's interval against zero and its margin, as SVG inside the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

GOOD, OPEN, BAD, NONE = "#1a7f37", "#9a6700", "#cf222e", "#8c959f"
LEFT, WIDTH, RIGHT, ROW, TOP = 250, 400, 230, 28, 46  # pixels
CLIP = 1.0  # relative differences beyond +-100% are drawn at the edge


class Line(NamedTuple):
    """One interval.

    Attributes:
        name: what is compared.
        mean, low, high: relative difference; None where undefined.
        bar: what it is held to: 0, or minus a margin.
        colour: of the outcome.
        told: the outcome in words.
    """

    name: str
    mean: float | None
    low: float | None
    high: float | None
    bar: float
    colour: str
    told: str


def picture(groups: Sequence[tuple[str, Sequence[Line]]]) -> str:
    """Groups of lines under their headings, all on one scale; "" without any."""
    groups = [(title, lines) for title, lines in groups if lines]
    if not groups:
        return ""
    low, high = _range([line for _, lines in groups for line in lines])

    def x(value: float) -> float:
        return LEFT + WIDTH * (min(max(value, low), high) - low) / (high - low)

    rows = sum(len(lines) + 1 for _, lines in groups)
    height = TOP + rows * ROW + 8
    parts, y = [_axis(low, high, x, height)], TOP
    for title, lines in groups:
        parts.append(f'<text x="0" y="{y + 19}" font-weight="600">{escape(title)}</text>')
        y += ROW
        for line in lines:
            parts.append(_drawn(line, x, y + ROW / 2))
            y += ROW
    return (
        f'<svg viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" role="img" font-size="13" font-family="system-ui,sans-serif">'
        f"<title>Relative differences with their intervals, against zero and margin</title>{''.join(parts)}</svg>"
    )


def _range(lines: Sequence[Line]) -> tuple[float, float]:
    values = [value for line in lines for value in (line.low, line.high, line.mean, line.bar) if value is not None]
    low, high = max(min([*values, -0.02]), -CLIP), min(max([*values, 0.02]), CLIP)
    pad = 0.06 * (high - low)
    return low - pad, high + pad


def _axis(low: float, high: float, x, height: int) -> str:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1) if (high - low) / s <= 8)
    marks = [n * step for n in range(int(low / step) - 1, int(high / step) + 2) if low <= n * step <= high]
    ticks = (
        "".join(
            f'<line x1="{x(v):.1f}" x2="{x(v):.1f}" y1="{TOP - 8}" y2="{height}" stroke="#eaeef2"/>'
            f'<text x="{x(v):.1f}" y="{TOP - 14}" text-anchor="middle" fill="#57606a">{v:+.0%}</text>'
            for v in marks
        )
        .replace("+0%", "0")
        .replace("-0%", "0")
    )
    return (
        f'{ticks}<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP - 8}" y2="{height}" stroke="#24292f" stroke-width="1.5"/>'
        f'<text x="{x(0) - 10:.1f}" y="13" text-anchor="end" fill="#57606a">◄ candidate worse</text>'
        f'<text x="{x(0) + 10:.1f}" y="13" fill="#57606a">candidate better ►</text>'
    )


def _drawn(line: Line, x, y: float) -> str:
    parts = [f'<text x="14" y="{y + 4}">{escape(line.name)}</text>']
    if line.bar < 0:
        parts.append(
            f'<line x1="{x(line.bar):.1f}" x2="{x(line.bar):.1f}" y1="{y - 13}" y2="{y + 13}" stroke="#57606a" '
            f'stroke-dasharray="3 2"/>'
        )
    if line.low is not None and line.high is not None:
        parts.append(
            f'<line x1="{x(line.low):.1f}" x2="{x(line.high):.1f}" y1="{y}" y2="{y}" stroke="{line.colour}" '
            f'stroke-width="5" stroke-linecap="round" opacity=".55"/>'
        )
    if line.mean is not None:
        parts.append(f'<circle cx="{x(line.mean):.1f}" cy="{y}" r="5" fill="{line.colour}"/>')
    parts.append(f'<text x="{LEFT + WIDTH + 14}" y="{y + 4}" fill="{line.colour}">{escape(line.told)}</text>')
    return "".join(parts)
