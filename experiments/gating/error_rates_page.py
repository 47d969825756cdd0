"""The gate's error rates as Markdown."""

from __future__ import annotations

from html import escape
from math import log

from experiments.gating.error_simulation import (
    ALONE,
    AS_THEY_ARE,
    BAR,
    BETTER,
    EQUAL,
    WORSE,
    curve,
    errors,
    first,
    of_kind,
    pooled,
    share,
    users_needed,
)


def statement(facts: dict) -> str:
    """The whole in one line."""
    asked, least = facts["settings"], facts["min_users"]
    if least is None:
        return f"no simulated number of users keeps both errors at {BAR:.0%} and sees {asked['detectable']:+.0%}"
    equal, worse = (
        max(share(point) for point in points if point["users"] >= least)
        for points in (pooled(errors(facts, EQUAL)), pooled(errors(facts, WORSE)))
    )
    return (
        f"from {least:,} users on equals are promoted in {equal:.1%} of windows at most, candidates worse by the margin in "
        f"{worse:.1%} (bar: {BAR:.0%}), and those {asked['detectable']:+.0%} on both targets in {facts['policy']['power']:.0%} or more"
    )


def markdown(facts: dict) -> str:
    """What was asked, what came of it, as of when."""
    policy, asked = facts["policy"], facts["settings"]
    lines = [
        f"# Error rates of the gate on {facts['dataset']}", "", f"**{_capital(statement(facts))}.**", "",
        f"![Share promoted by users and true effect]({facts['dataset']}.svg)", "",
        f"Each point is {asked['looks']:,} simulated windows, whose users are drawn with replacement from those of two real "
        "rankings of the test window. The candidate's gains are shifted in proportion to the champion's scores until "
        "its true effect is the one stated; how users differ stays as it is. Each window is judged as the gate judges: "
        f"paired bootstrap by user, superiority on `{policy['primary']}` at alpha {policy['alpha']}, a loss of at most "
        f"{policy['margin']:.0%} on the other. What else it asks (the baseline, segments, guard rails) only promotes less.", "",
    ]  # fmt: skip
    for title, points in _tables(facts):
        if points:
            lines += [f"## {title}", "", "| users | windows | promoted |", "| --- | --- | --- |"]
            lines += [f"| {one['users']:,} | {one['looks']:,} | {share(one):.1%} |" for one in pooled(points)] + [""]
    lines += _power(facts)
    return "\n".join([*lines, f"By `{facts['command']}`, seed {facts['seed']}, split {facts['split_id']}, commit "
                      f"{facts['commit']}, {facts['date']}.", ""])  # fmt: skip


def _tables(facts: dict) -> list[tuple[str, list[dict]]]:
    return [
        ("The same recipe under another seed, equal on average", of_kind(facts, "seeds", EQUAL)),
        ("The same recipe under another seed, as they are", of_kind(facts, "seeds", AS_THEY_ARE)),
        (f"Other models, equal on average ({', '.join(one['pair'] for one in facts['pairs'] if one['kind'] == 'models')})",
         of_kind(facts, "models", EQUAL)),
        (_capital(WORSE), of_kind(facts, "models", WORSE)),
    ]  # fmt: skip


def _power(facts: dict) -> list[str]:
    """Lines of the table of users needed."""
    pair, asked = first(facts), facts["settings"]
    lines = [f"## Users needed to promote {facts['policy']['power']:.0%} of better candidates ({pair['pair']})", "",
             "| true effect | better on both | better on the primary target alone |", "| --- | --- | --- |"]  # fmt: skip
    for effect in asked["effects"]:
        cells = [users_needed(pair["points"], what, effect, facts["policy"]["power"]) for what in (BETTER, ALONE)]
        most = max(asked["users"])
        lines.append(f"| {effect:+.0%} | " + " | ".join(f"{n:,}" if n else f"more than {most:,}" for n in cells) + " |")
    return [*lines, ""]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


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
