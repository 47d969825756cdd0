"""The split-sensitivity card as Markdown and as one HTML page that works offline."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
from plotly.colors import qualitative

from experiments.leaderboard.figures import document, embedded, table
from experiments.protocols.card import best
from experiments.protocols.holdouts import TEMPORAL

# Beside each temporal target what should agree with it, so that lines cross only where protocols differ.
BY_LIKENESS = (
    "rolling window",
    "window",
    "next",
    "rolling next",
    "leave last out",
    "user k-fold",
    "session k-fold",
)
TAU_COLOURS = {"next": "#1565c0", "window": "#ef6c00"}
STYLE = (
    "<style>.note{border-left:4px solid #c62828;background:#fdecea;padding:.6em 1em}"
    ".card td{text-align:center}.card td:first-child{text-align:left}.card small{color:#666;display:block}"
    ".card th.gate{background:#e3f2fd}</style>"
)


def markdown(facts: dict) -> str:
    """The card without its plots."""
    lines = [f"# Split sensitivity of {facts['dataset']}", "", f"**{facts['statement']}**", "", *origin(facts), ""]
    for title, rows in (("NDCG@10, rank", model_rows(facts)), ("Protocols", protocol_rows(facts))):
        lines += [f"## {title}", "", "| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
        lines += ["| " + " | ".join(row.values()) + " |" for row in rows] + [""]
    return "\n".join(lines)


def page(facts: dict) -> str:
    """The statement, the models by protocols, how ranks move, how alike the orderings are, what each protocol is."""
    body = [
        STYLE,
        f"<h1>Split sensitivity of {escape(facts['dataset'])}</h1>",
        f'<p class="note"><b>{escape(facts["statement"])}</b></p>',
        "<p>" + "<br>".join(map(escape, origin(facts))) + "</p>",
        "<h2>Rank and NDCG@10 of each model</h2>",
        _models(facts),
        embedded(bump(facts)),
        embedded(taus(facts)),
        "<h2>The protocols</h2>",
        table(protocol_rows(facts)),
    ]
    return document(f"{facts['dataset']}: split sensitivity", body)


def origin(facts: dict) -> list[str]:
    """As of when, of which data, and how it is counted."""
    return [
        f"As of {facts['date']}, commit {facts['commit']}, by {facts['command']}.",
        f"Split {facts['split_id']} of data {facts['dataset_hash']}; no event from {facts['test_start']} on was read.",
        "Full catalogue, ties against the model, seen items excluded, brackets hold 95% intervals by user. Recipes are "
        "found on the validation window and followed everywhere else; item trends are as of each case, without what is "
        "held out.",
    ]


def model_rows(facts: dict) -> list[dict[str, str]]:
    """One dict of column -> text per model."""
    return [
        {"model": label} | {column: f"{entry['mean']:.4f}, {entry['rank']}" for column, entry in of.items()}
        for label, of in facts["models"].items()
    ]


def protocol_rows(facts: dict) -> list[dict[str, str]]:
    """One dict of column -> text per protocol."""
    return [
        {
            "protocol": name,
            "what is asked of what was fitted": one["meaning"],
            "can feed a gate": "yes" if one["can_feed_a_gate"] else "no",
            "cases": f"{one['cases']:,}",
            "users": f"{one['users']:,}",
            "first": best(facts, name),
        }
        | {f"tau to {target}": _with_bounds(found) for target, found in one["tau"].items()}
        for name, one in facts["protocols"].items()
    ]


def bump(facts: dict) -> go.Figure:
    """The rank of each model under each protocol; a line that is level is a model that no protocol moves."""
    columns = [name for name in BY_LIKENESS if name in facts["protocols"]]
    figure, count = go.Figure(), len(facts["models"])
    for number, (label, of) in enumerate(facts["models"].items()):
        figure.add_scatter(
            x=columns, y=[of[name]["rank"] for name in columns], name=label, mode="lines+markers+text",
            line={"width": 3, "color": qualitative.Dark24[number % 24]}, marker={"size": 13},
            text=[label, *[""] * (len(columns) - 2), label], cliponaxis=False,
            textposition=["middle left", *["middle center"] * (len(columns) - 2), "middle right"],
            customdata=[[of[name]["mean"]] for name in columns],
            hovertemplate="%{x}: rank %{y}, NDCG@10 %{customdata[0]:.4f}",
        )  # fmt: skip
    places = [place for place, name in enumerate(columns) if name in TEMPORAL]
    figure.add_vrect(x0=min(places) - 0.45, x1=max(places) + 0.45, fillcolor="#e3f2fd", layer="below", line_width=0,
                     annotation_text="can feed a gate", annotation_position="top")  # fmt: skip
    figure.update_yaxes(autorange="reversed", tickvals=list(range(1, count + 1)), title="rank", zeroline=False)
    figure.update_xaxes(range=[-1.1, len(columns) + 0.1])
    figure.update_layout(title="How ranks move between protocols", height=200 + 45 * count, showlegend=False,
                         template="plotly_white")  # fmt: skip
    return figure


def taus(facts: dict) -> go.Figure:
    """Kendall's tau of each protocol's ordering with those of the temporal cut, 95% by resampling users."""
    figure = go.Figure()
    for target, colour in TAU_COLOURS.items():
        found = {name: one["tau"][target] for name, one in facts["protocols"].items() if target in one["tau"]}
        others = {name: entry for name, entry in found.items() if name != target}
        figure.add_scatter(
            x=[entry["tau"] for entry in others.values()], y=list(others), name=f"with {target}", mode="markers",
            orientation="h", marker={"size": 11, "color": colour}, error_x=_errors(list(others.values())),
        )  # fmt: skip
    order = [name for name in reversed(BY_LIKENESS) if name in facts["protocols"]]
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_xaxes(range=[-1.05, 1.05], title="1: the same order, 0: none, -1: reversed")
    figure.update_layout(title="Kendall's tau with the temporal cut, 95% interval by user", height=420,
                         scattermode="group", template="plotly_white")  # fmt: skip
    return figure


def _models(facts: dict) -> str:
    """The table of the card: rank in colour, NDCG@10 with its interval below."""
    kinds = {name: ' class="gate"' if one["can_feed_a_gate"] else "" for name, one in facts["protocols"].items()}
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in kinds.items())
    rows = [
        f"<tr><td>{escape(label)}</td>" + "".join(_cell(entry, len(facts["models"])) for entry in of.values()) + "</tr>"
        for label, of in facts["models"].items()
    ]
    return f'<div class="wide"><table class="card"><tr><th>model</th>{head}</tr>{"".join(rows)}</table></div>'


def _cell(entry: dict, count: int) -> str:
    shade = 0.45 * (count - entry["rank"]) / max(1, count - 1)
    bounds = "" if entry["low"] is None else f"[{entry['low']:.4f}, {entry['high']:.4f}]"
    return (
        f'<td style="background:rgba(46,125,50,{shade:.2f})"><b>{entry["rank"]}</b> &nbsp;{entry["mean"]:.4f}'
        f"<small>{bounds}</small></td>"
    )


def _with_bounds(found: dict) -> str:
    """`+0.87 [+0.60, +1.00]`, in one piece wherever lines break."""
    bounds = "" if found["low"] is None else f" [{found['low']:+.2f}, {found['high']:+.2f}]"
    return f"{found['tau']:+.2f}{bounds}".replace(" ", "\N{NO-BREAK SPACE}")


def _errors(entries: list[dict]) -> dict:
    """Asymmetric error bars; none where an interval is undefined."""
    known = [
        entry if entry["low"] is not None else entry | {"low": entry["tau"], "high": entry["tau"]} for entry in entries
    ]
    return {
        "type": "data",
        "symmetric": False,
        "array": [entry["high"] - entry["tau"] for entry in known],
        "arrayminus": [entry["tau"] - entry["low"] for entry in known],
    }
