"""The split-sensitivity card: models by holdout protocol with their ranks, and how similar the orders are."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative

from experiments.evaluation.bootstrap import UserTotals, intervals, json_number, percentile_bounds, resample_weights
from experiments.evaluation.holdout_protocols import MEANINGS, TEMPORAL
from experiments.pages import WIDE_STYLE, error_bars, interval_text, markdown_table, page, plotly_figure, table

NO_GATE = (
    "Only the temporal cut, with its targets next_item and horizon, asks the question of a platform: what will people take, "
    "given all that was known before. The gate asks the same on the test period. Every other protocol on this page is a "
    "diagnostic and cannot feed a gate."
)
# Each temporal target stands beside the protocols that should agree with it, so that lines cross where protocols differ.
COLUMN_ORDER = (
    "rolling horizon",
    "horizon",
    "next_item",
    "rolling next_item",
    "leave last out",
    "user k-fold",
    "session k-fold",
)
COLORS = {"next_item": "#1565c0", "horizon": "#ef6c00"}
CARD_STYLE = (
    ".note{border-left:4px solid #c62828;background:#fdecea;padding:.6em 1em}"
    ".card td{text-align:center}.card td:first-child{text-align:left}.card small{color:#666;display:block}"
    ".card th.gate{background:#e3f2fd}"
)

Values = Mapping[str, tuple[np.ndarray, np.ndarray]]  # label -> (n, 1) NDCG@10 of the cases, (n,) their user rows


def build_card(values: Mapping[str, Values], num_users: int, seed: int, resamples: int) -> dict[str, Any]:
    """The numbers of the card.

    Args:
        values: column -> what each model reached, every model on the same cases.

    Returns:
        {"protocols": {column: {"meaning", "can_feed_a_gate", "cases", "users", "tau": {target: {"tau", "low",
        "high"}}}}, "models": {label: {column: {"mean", "low", "high", "rank"}}}}, models in the order of the first
        column. A column without cases is left out.
    """
    columns = {name: by_label for name, by_label in values.items() if len(_users(by_label))}
    totals = {name: UserTotals.from_cases(_table(of), _users(of), num_users) for name, of in columns.items()}
    protocols = {
        name: {
            "meaning": MEANINGS[name],
            "can_feed_a_gate": name in TEMPORAL,
            "cases": len(_users(by_label)),
            "users": len(np.unique(_users(by_label))),
            "tau": {to: _tau_entry(totals[name], totals[to], seed, resamples) for to in TEMPORAL if to in totals},
        }
        for name, by_label in columns.items()
    }
    entries = {name: _model_entries(by_label, seed, resamples) for name, by_label in columns.items()}
    order = sorted(next(iter(entries.values())).items(), key=lambda item: item[1]["rank"])
    models = {label: {name: entries[name][label] for name in columns} for label, _ in order}
    return {"protocols": protocols, "models": models}


def best_model(card: dict[str, Any], column: str) -> str:
    """The model that a protocol ranks first."""
    return min(card["models"], key=lambda label: card["models"][label][column]["rank"])


def ranks(means: np.ndarray) -> np.ndarray:
    """(M,) ranks, 1 for the highest mean; equals share the better rank."""
    return 1 + (means[None, :] > means[:, None]).sum(axis=1)


def kendall_tau(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(...) Kendall's tau-a of (..., M) means: concordant minus discordant pairs, over all pairs; an equal pair counts 0."""
    first, second = np.triu_indices(one.shape[-1], k=1)
    signs = [np.sign(means[..., first] - means[..., second]) for means in (one, other)]
    return (signs[0] * signs[1]).mean(axis=-1)


def kendall_tau_interval(one: UserTotals, other: UserTotals, seed: int, resamples: int) -> tuple[float, float]:
    """95% interval of tau: users are resampled with all their cases, the same users under both protocols.

    Args:
        one, other: (U, M) totals of the same users.
    """
    drawn = [
        (block @ one.sums, block @ one.counts, block @ other.sums, block @ other.counts)
        for block in resample_weights(len(one.sums), resamples, seed)
    ]
    sums, counts, other_sums, other_counts = (np.concatenate(part) for part in zip(*drawn, strict=True))
    low, high = percentile_bounds(kendall_tau(_mean(sums, counts), _mean(other_sums, other_counts))[:, None])
    return float(low[0]), float(high[0])


def _mean(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _users(by_label: Values) -> np.ndarray:
    return next(iter(by_label.values()))[1]


def _table(by_label: Values) -> np.ndarray:
    return np.concatenate([values for values, _ in by_label.values()], axis=1)


def _model_entries(by_label: Values, seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    """Mean, 95% interval by user and rank of each model; only users who have cases are resampled."""
    users, row = np.unique(_users(by_label), return_inverse=True)
    measured = intervals(UserTotals.from_cases(_table(by_label), row, len(users)), seed, resamples)
    return {
        label: {"mean": json_number(mean), "low": json_number(low), "high": json_number(high), "rank": int(rank)}
        for label, mean, low, high, rank in zip(by_label, *measured, ranks(measured.mean), strict=True)
    }


def _tau_entry(one: UserTotals, other: UserTotals, seed: int, resamples: int) -> dict[str, float | None]:
    means = [_mean(totals.sums.sum(axis=0), totals.counts.sum(axis=0)) for totals in (one, other)]
    low, high = kendall_tau_interval(one, other, seed, resamples)
    return {"tau": float(kendall_tau(*means)), "low": json_number(low), "high": json_number(high)}


def markdown_card(card: dict[str, Any]) -> str:
    """The card as Markdown, without its plots. `card` also holds the provenance that `sensitivity` adds."""
    return "\n".join(
        [
            *(f"# Split sensitivity of {card['dataset']}", "", f"**{card['statement']}**", ""),
            *(*provenance_lines(card), "", "## NDCG@10, rank", "", markdown_table(model_rows(card)), ""),
            *("## Protocols", "", markdown_table(protocol_rows(card)), ""),
        ]
    )


def html_card(card: dict[str, Any]) -> str:
    """The card as HTML: statement, models by protocol, how ranks change, how similar the orders are."""
    body = [
        f"<h1>Split sensitivity of {escape(card['dataset'])}</h1>",
        f'<p class="note"><b>{escape(card["statement"])}</b></p>',
        "<p>" + "<br>".join(map(escape, provenance_lines(card))) + "</p>",
        "<h2>Rank and NDCG@10 of each model</h2>",
        _model_table(card),
        plotly_figure(plot_ranks(card)),
        plotly_figure(plot_taus(card)),
        "<h2>The protocols</h2>",
        table(protocol_rows(card)),
    ]
    return page(f"{card['dataset']}: split sensitivity", body, WIDE_STYLE + CARD_STYLE, plotly=True)


def provenance_lines(card: dict[str, Any]) -> list[str]:
    """When the card was made, from which data, and how it counts."""
    return [
        f"As of {card['date']}, commit {card['commit']}, by {card['command']}.",
        f"Split {card['split_id']} of data {card['dataset_hash']}; no event from {card['test_start']} on was read.",
        "Full catalog, ties against the model, seen items excluded; brackets: 95% intervals by user. Hyperparameters are "
        "chosen on the validation period and reused everywhere else. Item trends are as of each case, without what is "
        "held out.",
    ]


def model_rows(card: dict[str, Any]) -> list[dict[str, str]]:
    """One dict of column -> text per model."""
    return [
        {"model": label} | {column: f"{entry['mean']:.4f}, {entry['rank']}" for column, entry in by_column.items()}
        for label, by_column in card["models"].items()
    ]


def protocol_rows(card: dict[str, Any]) -> list[dict[str, str]]:
    """One dict of column -> text per protocol."""
    return [
        {
            "protocol": name,
            "held-out events and fit": protocol["meaning"],
            "can feed a gate": "yes" if protocol["can_feed_a_gate"] else "no",
            "cases": f"{protocol['cases']:,}",
            "users": f"{protocol['users']:,}",
            "first": best_model(card, name),
        }
        | {f"tau to {target}": _tau_text(entry) for target, entry in protocol["tau"].items()}
        for name, protocol in card["protocols"].items()
    ]


def _tau_text(entry: dict[str, Any]) -> str:
    """`+0.87 [+0.60, +1.00]`, without a line break inside."""
    bounds = "" if entry["low"] is None else f" [{entry['low']:+.2f}, {entry['high']:+.2f}]"
    return f"{entry['tau']:+.2f}{bounds}".replace(" ", "\N{NO-BREAK SPACE}")


def plot_ranks(card: dict[str, Any]) -> go.Figure:
    """The rank of each model under each protocol; a level line is a model that no protocol moves."""
    columns = [name for name in COLUMN_ORDER if name in card["protocols"]]
    figure, count, inner = go.Figure(), len(card["models"]), len(columns) - 2
    for number, (label, by_column) in enumerate(card["models"].items()):
        figure.add_scatter(
            x=columns,
            y=[by_column[name]["rank"] for name in columns],
            name=label,
            mode="lines+markers+text",
            line={"width": 3, "color": qualitative.Dark24[number % 24]},
            marker={"size": 13},
            text=[label, *[""] * inner, label],
            textposition=["middle left", *["middle center"] * inner, "middle right"],
            cliponaxis=False,
            customdata=[[by_column[name]["mean"]] for name in columns],
            hovertemplate="%{x}: rank %{y}, NDCG@10 %{customdata[0]:.4f}",
        )
    temporal = [place for place, name in enumerate(columns) if name in TEMPORAL]
    figure.add_vrect(
        x0=min(temporal) - 0.45,
        x1=max(temporal) + 0.45,
        fillcolor="#e3f2fd",
        layer="below",
        line_width=0,
        annotation_text="can feed a gate",
        annotation_position="top",
    )
    figure.update_yaxes(autorange="reversed", tickvals=list(range(1, count + 1)), title="rank", zeroline=False)
    figure.update_xaxes(range=[-1.1, len(columns) + 0.1])
    layout = {"height": 200 + 45 * count, "showlegend": False, "template": "plotly_white"}
    return figure.update_layout(title="How ranks change between protocols", **layout)


def plot_taus(card: dict[str, Any]) -> go.Figure:
    """Kendall's tau of each protocol's order with those of the temporal cut, with 95% intervals by user."""
    figure = go.Figure()
    for target, color in COLORS.items():
        entries = {
            name: protocol["tau"][target]
            for name, protocol in card["protocols"].items()
            if target in protocol["tau"] and name != target
        }
        figure.add_scatter(
            x=[entry["tau"] for entry in entries.values()],
            y=list(entries),
            name=f"with {target}",
            mode="markers",
            orientation="h",
            marker={"size": 11, "color": color},
            error_x=error_bars(list(entries.values()), "tau"),
        )
    order = [name for name in reversed(COLUMN_ORDER) if name in card["protocols"]]
    figure.update_yaxes(categoryorder="array", categoryarray=order)
    figure.update_xaxes(range=[-1.05, 1.05], title="1: the same order, 0: unrelated, -1: reversed")
    layout = {"height": 420, "scattermode": "group", "template": "plotly_white"}
    return figure.update_layout(title="Kendall's tau with the temporal cut, 95% interval by user", **layout)


def _model_table(card: dict[str, Any]) -> str:
    """Models by protocol: rank as color, NDCG@10 with its interval below."""
    classes = {name: ' class="gate"' if one["can_feed_a_gate"] else "" for name, one in card["protocols"].items()}
    head = "".join(f"<th{css}>{escape(name)}</th>" for name, css in classes.items())
    count = len(card["models"])
    rows = [
        f"<tr><td>{escape(label)}</td>{''.join(_model_cell(entry, count) for entry in by_column.values())}</tr>"
        for label, by_column in card["models"].items()
    ]
    return f'<div class="wide"><table class="card"><tr><th>model</th>{head}</tr>{"".join(rows)}</table></div>'


def _model_cell(entry: dict[str, Any], count: int) -> str:
    shade = 0.45 * (count - entry["rank"]) / max(1, count - 1)
    mean, _, bounds = interval_text(entry).partition(" ")
    return (
        f'<td style="background:rgba(46,125,50,{shade:.2f})"><b>{entry["rank"]}</b> &nbsp;{mean}'
        f"<small>{bounds}</small></td>"
    )
