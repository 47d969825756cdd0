"""The gate's power as an SVG: the share promoted over users, a line for each true effect."""

from __future__ import annotations

from html import escape
from math import log

from experiments.power.points import ALONE, BAR, BETTER, EQUAL, curve, first

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 170, 46, 52
ACROSS, UP = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLOURS = ("#90caf9", "#42a5f5", "#1e88e5", "#1565c0", "#0d47a1", "#062a5e")
GREY, RED, DASHED = "#9e9e9e", "#c62828", "5 4"


def chart(facts: dict) -> str:
    """Dashed are the candidates that gain on the primary target alone; the grey line is of those that do not gain."""
    pair, asked = first(facts), facts["settings"]
    title = f"Share of windows that promote: {pair['pair']}, {facts['dataset']}"
    users = sorted(asked["users"])
    lines = [(0.0, EQUAL), *((effect, what) for what in (BETTER, ALONE) for effect in asked["effects"])]
    parts = [_text(LEFT, 22, title, size=15), *_axes(users), *_bounds(facts)]
    for row, (effect, what) in enumerate(lines):
        colour = GREY if what == EQUAL else COLOURS[asked["effects"].index(effect) % len(COLOURS)]
        dash = DASHED if what == ALONE else None
        points = " ".join(f"{_x(n, users):.1f},{_y(part):.1f}" for n, part in curve(pair["points"], what, effect))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"{_dashed(dash)}/>')
        parts += _legend(row, _label(effect, what, facts), colour, dash)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui,sans-serif">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _axes(users: list[int]) -> list[str]:
    shares = (0, 0.2, 0.4, 0.6, 0.8, 1)
    grid = [_line(LEFT, _y(part), LEFT + ACROSS, _y(part), "#e0e0e0") for part in shares]
    grid += [_text(LEFT - 8, _y(part) + 4, f"{part:.0%}", "end") for part in shares]
    grid += [_text(_x(n, users), TOP + UP + 18, f"{n:,}", "middle") for n in users]
    return [*grid, _text(LEFT + ACROSS / 2, HEIGHT - 12, "users in the window", "middle")]


def _bounds(facts: dict) -> list[str]:
    parts = []
    for level, name in ((BAR, "errors"), (facts["policy"]["power"], "power")):
        parts.append(_line(LEFT, _y(level), LEFT + ACROSS, _y(level), RED, "4 3"))
        parts.append(_text(LEFT + ACROSS - 6, _y(level) - 4, f"{name} {level:.0%}", "end", 11, RED))
    return parts


def _legend(row: int, label: str, colour: str, dash: str | None) -> list[str]:
    left, at = LEFT + ACROSS + 14, TOP + 10 + 20 * row
    return [_line(left, at, left + 26, at, colour, dash, 2.5), _text(left + 32, at + 4, label)]


def _label(effect: float, what: str, facts: dict) -> str:
    if what == EQUAL:
        return "equal"
    return f"{effect:+.0%} {'both' if what == BETTER else facts['policy']['primary'] + ' alone'}"


def _x(number: int, users: list[int]) -> float:
    return LEFT + ACROSS * log(number / users[0]) / log(users[-1] / users[0])


def _y(part: float) -> float:
    return TOP + UP * (1 - part)


def _dashed(dash: str | None) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str | None = None, width: float = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{_dashed(dash)}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12, colour: str = "#333") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'
    )
