"""The board as one HTML page that works offline: Plotly's script stands inside the page."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from experiments.evaluation.comparison import PRIMARY
from experiments.evaluation.measure import HEADLINE, KS, Measured
from experiments.leaderboard.board import Board
from experiments.leaderboard.markdown import TITLES, definitions, provenance, rows, segment_rows, size_line

COLOURS = {"best reachable": "#9e9e9e", "learned": "#1565c0", "best baseline": "#ef6c00", "baseline": "#ffcc80"}
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:left}td{white-space:nowrap}.wide{overflow-x:auto}"
)


def page(board: Board) -> str:
    """A self-contained page: per target the table, NDCG@10 with intervals, metrics by k, slices; then
    definitions."""
    body = [
        f"<h1>Leaderboard of {escape(board.dataset)}</h1>",
        "<p>" + "<br>".join(map(escape, provenance(board))) + "</p>",
    ]
    for target in board.targets:
        body += [
            f"<h2>{escape(TITLES[target])}</h2>",
            f"<p>{escape(size_line(board, target))}</p>",
            table(rows(board, target)),
        ]
        if by_segment := segment_rows(board, target):
            body += ["<p>NDCG@10 by segment (cases)</p>", table(by_segment)]
        body += [embedded(figure) for figure in (bars(board, target), by_k(board, target), by_slice(board, target))]
        if target == "next_item" and board.decay:
            body.append(embedded(ageing(board)))
    meanings = "".join(
        f"<dt><b>{escape(name)}</b></dt><dd>{escape(text)}</dd>" for name, text in definitions(board).items()
    )
    body += ["<h2>Definitions</h2>", f"<dl>{meanings}</dl>"]
    return document(f"{board.dataset}: leaderboard", body)


def document(title: str, body: list[str]) -> str:
    """The whole page around the parts of a body, script and style inside."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(body)}</body></html>\n"
    )


def bars(board: Board, target: str) -> go.Figure:
    """NDCG@10 of each model, best on top, with its 95% interval."""
    figure = go.Figure()
    for kind, colour in COLOURS.items():
        shown = [one for one in _everyone(board, target) if _kind(board, one, target) == kind]
        entries = [one.entry(target, PRIMARY) for one in shown]
        figure.add_bar(
            y=[_label(one) for one in shown], x=[entry["mean"] for entry in entries], orientation="h",
            name=kind, marker_color=colour, error_x=_errors(entries),
        )  # fmt: skip
    order = [_label(one) for one in reversed(_everyone(board, target))]
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    return _titled(board, figure, f"NDCG@10, {target}, 95% interval by user", height=150 + 28 * len(order))


def by_k(board: Board, target: str) -> go.Figure:
    """NDCG@k and Recall@k against the list length k; the buttons choose which."""
    everyone, figure = _everyone(board, target), go.Figure()
    for name in ("ndcg", "recall"):
        for one in everyone:
            points = [(k, one.point(target, f"{name}@{k}")) for k in KS]
            figure.add_scatter(
                x=[k for k, value in points if value is not None], y=[v for _, v in points if v is not None],
                name=_label(one), mode="lines+markers", visible=name == "ndcg",
            )  # fmt: skip
    n = len(everyone)
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [part == chosen for part in (0, 1) for _ in range(n)]}],
        }
        for chosen, label in enumerate(("NDCG@k", "Recall@k"))
    ]
    figure.update_layout(updatemenus=[{"buttons": buttons, "x": 1, "y": 1.15, "xanchor": "right"}])
    figure.update_xaxes(type="log", tickvals=list(KS), title="k")
    return _titled(board, figure, f"By length of the list, {target}", height=420)


def ageing(board: Board, most: int = 6) -> go.Figure:
    """NDCG@10 of `next_item` by day after the cut, for the leading models, the best baseline and the registered one."""
    ranked, figure = [one.label for one in board.ranked("next_item")], go.Figure()
    named = {board.best_baseline["next_item"], board.registered}
    for label in [*ranked[:most], *(label for label in ranked[most:] if label in named)]:
        periods = board.decay.get(label, [])
        figure.add_scatter(
            x=[(one["from_day"] + one["to_day"]) / 2 for one in periods], y=[one["mean"] for one in periods],
            name=label, mode="lines+markers", error_y=_errors(periods),
            text=[f"{one['cases']:,} cases of {one['users']:,} users" for one in periods],
        )  # fmt: skip
    figure.update_xaxes(title="days after the cut that all were fitted at")
    figure.update_yaxes(rangemode="tozero")
    return _titled(board, figure, f"How models age: NDCG@{HEADLINE} by day after the cut, next_item", height=440)


def by_slice(board: Board, target: str, most: int = 6) -> go.Figure:
    """NDCG@10 by slice, for the leading models, the best baseline and the registered one."""
    ranked, figure = board.ranked(target), go.Figure()
    named = {board.best_baseline[target], board.registered}
    for one in [*ranked[:most], *(one for one in ranked[most:] if one.label in named)]:
        slices = {name: one.entry(target, PRIMARY, name) for name in one.targets[target].get("slices", {})}
        figure.add_bar(
            x=[f"{name} ({one.targets[target]['slices'][name]['cases']:,})" for name in slices],
            y=[entry.get("mean") for entry in slices.values()], name=one.label,
            error_y=_errors(list(slices.values())),
        )  # fmt: skip
    figure.update_layout(barmode="group")
    return _titled(board, figure, f"NDCG@{HEADLINE} by slice (cases), {target}", height=460)


def _everyone(board: Board, target: str) -> list[Measured]:
    oracle = [board.oracle] if board.oracle is not None and target in board.oracle.targets else []
    return [*oracle, *board.ranked(target)]


def _kind(board: Board, one: Measured, target: str) -> str:
    if one.oracle:
        return "best reachable"
    if one.label == board.best_baseline[target]:
        return "best baseline"
    return "baseline" if one.baseline else "learned"


def _label(one: Measured) -> str:
    return "best reachable" if one.oracle else one.label


def _errors(entries: list[dict]) -> dict:
    """Asymmetric error bars; none where an interval is undefined."""
    known = [entry if entry.get("low") is not None else None for entry in entries]
    return {
        "type": "data",
        "symmetric": False,
        "array": [entry["high"] - entry["mean"] if entry else 0 for entry in known],
        "arrayminus": [entry["mean"] - entry["low"] if entry else 0 for entry in known],
    }


def _titled(board: Board, figure: go.Figure, title: str, height: int) -> go.Figure:
    """Every figure says what it shows and as of when."""
    origin = board.provenance
    stamp = f"as of {origin['date']}, commit {origin['commit']}, split {origin['split_id']}"
    figure.update_layout(
        title={"text": f"{escape(title)}<br><sub>{escape(stamp)}</sub>"},
        height=height,
        template="plotly_white",
    )
    return figure


def embedded(figure: go.Figure) -> str:
    """A figure as a part of a body."""
    return figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})


def table(lines: list[dict[str, str]]) -> str:
    """Lines of column -> text as a part of a body."""
    head = "".join(f"<th>{escape(name)}</th>" for name in lines[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line.values()) + "</tr>" for line in lines)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
