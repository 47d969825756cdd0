"""What a split-sensitivity card states: models by protocols, with ranks, and how alike the orderings are."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative

from experiments.evaluation.bootstrap import Totals, bounds, intervals, weights
from experiments.evaluation.holdout_protocols import MEANINGS, TEMPORAL
from experiments.evaluation.measure import number
from experiments.leaderboard.html_page import document, embedded, table


def ranks(means: np.ndarray) -> np.ndarray:
    """(M,) 1 for the highest mean; equals share the better rank."""
    return 1 + (means[None, :] > means[:, None]).sum(axis=1)


def tau(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(...) Kendall's tau-a of (..., M) means: pairs in the same order less pairs in the other, over all pairs.

    1 where both orders agree, -1 where one is the other reversed; a pair that is equal in either counts 0.
    """
    first, second = np.triu_indices(one.shape[-1], k=1)
    signs = [np.sign(means[..., first] - means[..., second]) for means in (one, other)]
    return (signs[0] * signs[1]).mean(axis=-1)


def tau_interval(one: Totals, other: Totals, seed: int, resamples: int) -> tuple[float, float]:
    """95% interval of tau: users are drawn with all their cases, the same users under both protocols.

    Args:
        one, other: sums and counts, each (U, M), of the same users.
    """
    drawn = [(block @ one.sums, block @ one.counts, block @ other.sums, block @ other.counts)
             for block in weights(len(one.sums), resamples, seed)]  # fmt: skip
    sums, counts, other_sums, other_counts = (np.concatenate(part) for part in zip(*drawn, strict=True))
    low, high = bounds(tau(_mean(sums, counts), _mean(other_sums, other_counts))[:, None])
    return float(low[0]), float(high[0])


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


NO_GATE = (
    "Only the temporal cut, with its targets next_item and horizon, asks what a platform has to answer: what people will "
    "take after all that was learned. The gate asks it again, on the test window. Every other protocol on this page is "
    "a diagnostic and cannot feed a gate."
)
Values = Mapping[str, tuple[np.ndarray, np.ndarray]]  # label -> (n, 1) NDCG@10 of the cases, (n,) rows of their users


def build(found: Mapping[str, Values], num_users: int, seed: int, resamples: int) -> dict:
    """The card.

    Args:
        found: column -> what each model reached, every model on the same cases.

    Returns:
        {"protocols": {column: {"meaning", "can_feed_a_gate", "cases", "users", "tau": {"next_item" | "horizon": {"tau",
        "low", "high"}}}}, "models": {label: {column: {"mean", "low", "high", "rank"}}}}; models in the order of
        the temporal cut's `next_item`. A column without cases is left out.
    """
    columns = {name: of for name, of in found.items() if len(next(iter(of.values()))[0])}
    totals = {name: _totals(of, num_users) for name, of in columns.items()}
    protocols = {
        name: {
            "meaning": MEANINGS[name],
            "can_feed_a_gate": name in TEMPORAL,
            "cases": len(next(iter(of.values()))[0]),
            "users": len(np.unique(next(iter(of.values()))[1])),
            "tau": {to: _tau(totals[name], totals[to], seed, resamples) for to in TEMPORAL if to in totals},
        }
        for name, of in columns.items()
    }
    entries = {name: _entries(of, seed, resamples) for name, of in columns.items()}
    by_next = sorted(next(iter(entries.values())).items(), key=lambda entry: entry[1]["rank"])
    models = {label: {name: entries[name][label] for name in columns} for label, _ in by_next}
    return {"protocols": protocols, "models": models}


def best(card: dict, column: str) -> str:
    """The model that a protocol puts first."""
    return min(card["models"], key=lambda label: card["models"][label][column]["rank"])


def _totals(of: Values, num_users: int) -> Totals:
    """(U, M) of all users, so that the same ones are drawn under every protocol."""
    user = next(iter(of.values()))[1]
    return Totals.of(np.concatenate([values for values, _ in of.values()], axis=1), user, num_users)


def _entries(of: Values, seed: int, resamples: int) -> dict[str, dict]:
    """Mean, 95% interval by user and rank of each model; here only users that have cases are drawn."""
    users, row = np.unique(next(iter(of.values()))[1], return_inverse=True)
    table = np.concatenate([values for values, _ in of.values()], axis=1)
    measured = intervals(Totals.of(table, row, len(users)), seed, resamples)
    order = ranks(measured.mean)
    return {
        label: {"mean": number(mean), "low": number(low), "high": number(high), "rank": int(rank)}
        for label, mean, low, high, rank in zip(of, *measured, order, strict=True)
    }


def _tau(one: Totals, other: Totals, seed: int, resamples: int) -> dict[str, float | None]:
    means = [totals.sums.sum(axis=0) / totals.counts.sum(axis=0) for totals in (one, other)]
    low, high = tau_interval(one, other, seed, resamples)
    return {"tau": float(tau(*means)), "low": number(low), "high": number(high)}


# Beside each temporal target what should agree with it, so that lines cross only where protocols differ.
BY_LIKENESS = (
    "rolling horizon",
    "horizon",
    "next_item",
    "rolling next_item",
    "leave last out",
    "user k-fold",
    "session k-fold",
)
TAU_COLOURS = {"next_item": "#1565c0", "horizon": "#ef6c00"}
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
    for position, (label, of) in enumerate(facts["models"].items()):
        figure.add_scatter(
            x=columns, y=[of[name]["rank"] for name in columns], name=label, mode="lines+markers+text",
            line={"width": 3, "color": qualitative.Dark24[position % 24]}, marker={"size": 13},
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
