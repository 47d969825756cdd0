"""The leaderboard as a Markdown page, as an offline HTML page with plots, and as a text table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from data.pages import (
    MISSING,
    WIDE_STYLE,
    decimal_text,
    error_bars,
    interval_text,
    markdown_table,
    page,
    percent_text,
    plotly_figure,
    table,
)
from experiments.evaluation.cases import HEADLINE, PRIMARY, SEGMENT, SLICE_DEFINITIONS, TARGETS
from experiments.evaluation.comparison import MeasuredModel, entry_value
from experiments.evaluation.measure import BY_USER, DEFINITIONS
from experiments.leaderboard.board import FROZEN, Board

TITLES = {
    "horizon": "horizon: one ranking per user at test_start; the truth is their new items of the following days",
    "next_item": "next_item: one ranking just before each event; the truth is that event's item",
}
COLUMNS = {
    "frozen trends": "NDCG@10 with item trends as of test_start instead of as of each case",
    "valid": "NDCG@10 on the validation period, by which parameters and seeds are chosen",
    "fit s": "seconds to fit on everything before test_start",
}
PLOTTED_MODELS = 6  # in plots by slice and by day: the leading ones, the best baseline and the registered one


class Section(NamedTuple):
    """A heading, a line of text and a table, the same in Markdown and HTML."""

    title: str
    text: str
    rows: list[dict[str, str]]
    target: str | None = None  # in HTML, the plots of this target follow


def sections(board: Board) -> Iterator[Section]:
    """Per target the models and the segments in use, then comparisons and definitions."""
    for target in board.targets:
        yield Section(TITLES[target], size_text(board, target), model_rows(board, target), target)
        if rows := segment_rows(board, target):
            yield Section(f"{target} by segment", "NDCG@10 by segment (cases):", rows)
    if board.comparisons:
        rows = [_comparison_row(line) for line in board.comparisons]
        yield Section("Paired comparisons", "Same cases, same resamples of users.", rows)
    meanings = {name.strip("_"): text for name, text in (DEFINITIONS | SLICE_DEFINITIONS).items()}
    rows = [{"name": name, "meaning": text} for name, text in (meanings | board.segments | COLUMNS).items()]
    yield Section("Definitions", "Ranks are in the full catalog.", rows)


def markdown_report(board: Board) -> str:
    """The Markdown page; the same metrics files give the same page."""
    parts = [f"# Leaderboard of {board.dataset}", "  \n".join(provenance_lines(board))]
    for section in sections(board):
        parts += [f"## {section.title}", section.text, markdown_table(section.rows)]
    return "\n\n".join(parts) + "\n"


def html_report(board: Board) -> str:
    """The same as an HTML page, with plots of each target."""
    body = [f"<h1>Leaderboard of {escape(board.dataset)}</h1>"]
    body.append(f"<p>{'<br>'.join(map(escape, provenance_lines(board)))}</p>")
    for section in sections(board):
        body += [f"<h2>{escape(section.title)}</h2><p>{escape(section.text)}</p>", table(section.rows)]
        if section.target is not None:
            figures = [plot_models(board, section.target), plot_by_slice(board, section.target)]
            if section.target == "next_item" and board.decay:
                figures.append(plot_decay(board))
            body += map(plotly_figure, figures)
    return page(f"{board.dataset}: leaderboard", body, WIDE_STYLE, plotly=True)


def provenance_lines(board: Board) -> list[str]:
    """When the numbers were measured, on which split of which data, by which commit and command."""
    origin = board.provenance
    command, *others = origin["command"].split(" && ")
    more = f" and {len(others)} more, all in {board.dataset}.json" if others else ""
    return [
        f"As of {origin['date']}, commit {origin['commit']}, by `{command}`{more}.",
        f"Split {origin['split_id']} of data {origin['dataset_hash']}.",
        "Brackets: 95% intervals from a bootstrap over users.",
        f"Registered for the gate: {board.registered or 'none'}.",
    ]


def size_text(board: Board, target: str) -> str:
    """Users, cases and the share of cold cases of a target."""
    measured = next(model.targets[target] for model in board.models if target in model.targets)
    cold = measured.get("slices", {}).get("cold", {}).get("cases", 0)
    return (
        f"{measured['users']:,} users, {measured['cases']:,} cases, {cold / measured['cases']:.1%} of them cold "
        "(no history)."
    )


def model_rows(board: Board, target: str) -> list[dict[str, str]]:
    """One dict of column -> text per model: the oracle first, then the best NDCG@10 first."""
    rows = []
    for model in board.shown(target):
        row = {
            "model": _marked_label(board, model, target),
            "NDCG@10": interval_text(model.entry(target, PRIMARY)),
            "Recall@10": interval_text(model.entry(target, f"recall@{HEADLINE}")),
            "warm NDCG@10": decimal_text(model.point(target, PRIMARY, "warm")),
            "cold NDCG@10": decimal_text(model.point(target, PRIMARY, "cold")),
        }
        if target == "next_item":
            row["NDCG@10 by user"] = decimal_text(model.point(target, PRIMARY + BY_USER))
            if any(FROZEN in other.targets for other in board.models):
                row["frozen trends"] = decimal_text(model.point(FROZEN, PRIMARY))
        row["coverage@10"] = decimal_text(model.point(target, f"coverage@{HEADLINE}"))
        row["valid"] = decimal_text(entry_value(model.validation.get(target, {}).get(PRIMARY)))
        row["fit s"] = MISSING if model.fit_seconds is None else f"{model.fit_seconds:,.1f}"
        rows.append(row | {"seeds": MISSING if model.oracle else str(len(model.seeds))})
    return rows


def segment_rows(board: Board, target: str) -> list[dict[str, str]]:
    """One dict of column -> text per model, in the order of `model_rows`; empty if no case is in a segment."""
    models = board.shown(target)
    slices = models[0].targets[target].get("slices", {})
    used = {name: slices[name]["cases"] for name in board.segments if name in slices}
    return [
        {"model": _marked_label(board, model, target)}
        | {
            f"{name.removeprefix(SEGMENT)} ({cases:,})": interval_text(model.entry(target, PRIMARY, name))
            for name, cases in used.items()
        }
        for model in models
        if used
    ]


def _marked_label(board: Board, model: MeasuredModel, target: str) -> str:
    if model.oracle:
        return "best reachable (oracle)"
    marks = {"best baseline": board.best_baseline[target], "registered": board.registered}
    held = [mark for mark, label in marks.items() if label == model.label]
    return model.label + (f" ({', '.join(held)})" if held else "")


def _comparison_row(line: dict[str, Any]) -> dict[str, str]:
    warm, cold = (line["slices"].get(name, {}) for name in ("warm", "cold"))
    return {
        "target": line["target"],
        "model": line["model"],
        "against": line["against"],
        f"difference in {PRIMARY}": interval_text(line, "difference", signed=True),
        "relative": percent_text(line["relative"]),
        "warm": interval_text(warm, "difference", signed=True),
        "warm, relative": percent_text(warm.get("relative")),
        "cold": interval_text(cold, "difference", signed=True),
    }


def text_summary(result: dict[str, Any], primary: str) -> str:
    """A result file as text: NDCG@10 of both targets with 95% intervals, best on `primary` first, and seconds to fit."""

    entries = [*result["models"].items(), *([("best reachable", result["oracle"])] if "oracle" in result else [])]
    entries.sort(key=lambda entry: (entry[0] != "best reachable", -(_result_entry(entry[1], primary).get("mean") or 0)))
    marks = dict.fromkeys(result["best_baseline"].values(), "*")
    if result["registered"]:
        marks[result["registered"]] = "+"
    names = [label + marks.get(label, "") for label, _ in entries]
    rows = [
        {"model": name.ljust(max(map(len, names)) + 1)}
        | {f"{target} NDCG@10 [95%]": interval_text(_result_entry(model, target)) for target in TARGETS}
        | {"fit s": f"{model['fit_seconds']:,.1f}" if "fit_seconds" in model else MISSING}
        for name, (_, model) in zip(names, entries, strict=True)
    ]
    measured = next(iter(result["models"].values()))["targets"]
    sizes = ", ".join(
        f"{target}: {measured[target]['users']:,} users, {measured[target]['cases']:,} cases"
        for target in TARGETS
        if target in measured
    )
    lines = [line.rstrip() for line in pd.DataFrame(rows).to_string(index=False, justify="left").splitlines()]
    return "\n".join([*lines, f"({sizes}; * best baseline, + the gate's candidate)"])


def _result_entry(model: dict[str, Any], target: str) -> dict[str, Any]:
    return model["targets"].get(target, {}).get("metrics", {}).get(PRIMARY, {})


def plot_models(board: Board, target: str) -> go.Figure:
    """NDCG@10 of each model with its 95% interval, best on top; baselines and the oracle have their own color."""
    models = board.shown(target)[::-1]
    entries = [model.entry(target, PRIMARY) for model in models]
    figure = go.Figure()
    figure.add_bar(
        y=[_marked_label(board, model, target) for model in models],
        x=[entry["mean"] for entry in entries],
        orientation="h",
        marker_color=["#9e9e9e" if model.oracle else "#ef6c00" if model.baseline else "#1565c0" for model in models],
        error_x=error_bars(entries),
    )
    return _with_title(board, figure, f"NDCG@10, {target}, 95% interval by user", height=150 + 28 * len(models))


def plot_by_slice(board: Board, target: str) -> go.Figure:
    """NDCG@10 by slice."""
    figure = go.Figure()
    for model in _plotted_models(board, target):
        slices = model.targets[target].get("slices", {})
        entries = [model.entry(target, PRIMARY, name) for name in slices]
        figure.add_bar(
            x=[f"{name} ({part['cases']:,})" for name, part in slices.items()],
            y=[entry.get("mean") for entry in entries],
            name=model.label,
            error_y=error_bars(entries),
        )
    figure.update_layout(barmode="group")
    return _with_title(board, figure, f"NDCG@{HEADLINE} by slice (cases), {target}", height=460)


def plot_decay(board: Board) -> go.Figure:
    """NDCG@10 of `next_item` by day after the cut."""
    figure = go.Figure()
    for model in _plotted_models(board, "next_item"):
        periods = board.decay.get(model.label, [])
        figure.add_scatter(
            x=[(period["from_day"] + period["to_day"]) / 2 for period in periods],
            y=[period["mean"] for period in periods],
            name=model.label,
            mode="lines+markers",
            error_y=error_bars(periods),
            text=[f"{period['cases']:,} cases of {period['users']:,} users" for period in periods],
        )
    figure.update_xaxes(title="days after the cut, at which all models were fitted")
    figure.update_yaxes(rangemode="tozero")
    return _with_title(board, figure, f"How models age: NDCG@{HEADLINE} by day after the cut, next_item", height=440)


def _plotted_models(board: Board, target: str) -> list[MeasuredModel]:
    marked = {board.best_baseline[target], board.registered}
    return [
        model for place, model in enumerate(board.ranked(target)) if place < PLOTTED_MODELS or model.label in marked
    ]


def _with_title(board: Board, figure: go.Figure, title: str, height: int) -> go.Figure:
    """Add what a figure shows, and when and from which commit and split its numbers are."""
    origin = board.provenance
    stamp = f"as of {origin['date']}, commit {origin['commit']}, split {origin['split_id']}"
    title = f"{escape(title)}<br><sub>{escape(stamp)}</sub>"
    figure.update_layout(title={"text": title}, height=height, template="plotly_white")
    return figure
