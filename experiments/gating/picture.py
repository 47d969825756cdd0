"""The gate's picture: every comparison's interval against zero and its margin, as SVG inside the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

GOOD, OPEN, BAD, NONE = "#1a7f37", "#9a6700", "#cf222e", "#8c959f"
LEFT, WIDTH, RIGHT, ROW, TOP = 250, 400, 230, 28, 46  # pixels
FINEST, COARSEST = 0.02, 5.0  # of the scale: how far from 0 it reaches at least and at most


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
    low, high = _range(groups[0][1], [line for _, lines in groups[1:] for line in lines])

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


def _range(first: Sequence[Line], others: Sequence[Line]) -> tuple[float, float]:
    """From the intervals of the first group and the means of the others: a wide interval of few users is cut off at the
    edge, so that it does not squeeze what decides."""
    values = [value for line in first for value in (line.low, line.high)] + [line.mean for line in others]
    known = [value for value in [*values, *(line.bar for line in [*first, *others])] if value is not None]
    low, high = max(min([*known, -FINEST]), -1.0), min(max([*known, FINEST]), COARSEST)
    pad = 0.08 * (high - low)
    return low - pad, high + pad


def _axis(low: float, high: float, x, height: int) -> str:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2) if (high - low) / s <= 8)
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
        begin, end = x(line.low), x(line.high)
        parts.append(
            f'<line x1="{begin:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke="{line.colour}" stroke-width="5" opacity=".55"/>'
        )
        for edge, sign, shown in ((LEFT, "‹", begin), (LEFT + WIDTH, "›", end)):
            if shown == edge:  # it goes on
                parts.append(f'<text x="{edge}" y="{y + 6}" fill="{line.colour}" font-size="20">{sign}</text>')
    if line.mean is not None:
        parts.append(f'<circle cx="{x(line.mean):.1f}" cy="{y}" r="5" fill="{line.colour}"/>')
    parts.append(f'<text x="{LEFT + WIDTH + 14}" y="{y + 4}" fill="{line.colour}">{escape(line.told)}</text>')
    return "".join(parts)
