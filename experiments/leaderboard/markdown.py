"""The board as a page of Markdown: a table per target, comparisons, definitions, provenance."""

from __future__ import annotations

from typing import Any

from experiments.evaluation.cases import SEGMENT, TARGETS
from experiments.evaluation.comparison import PRIMARY
from experiments.evaluation.measure import DEFINITIONS, HEADLINE, Measured, point
from experiments.evaluation.slices import DEFINITIONS as SLICE_DEFINITIONS
from experiments.leaderboard.board import FROZEN, Board

TITLES = {
    "horizon": "horizon: one ranking a user at test_start; the truth is their new items of the following days",
    "next_item": "next_item: a ranking just before each event; the truth is that event's item",
}
NOTHING = "–"


def markdown(board: Board) -> str:
    """The whole page, stable under re-runs on the same metrics files."""
    parts = [f"# Leaderboard of {board.dataset}", *(f"{line}  " for line in provenance(board)), ""]
    for target in board.targets:
        parts += [f"## {TITLES[target]}", "", size_line(board, target), "", _table(rows(board, target)), ""]
        if by_segment := segment_rows(board, target):
            parts += ["NDCG@10 by segment (cases):", "", _table(by_segment), ""]
    if board.comparisons:
        parts += ["## Paired comparisons", "", "Same cases, same resamples of users.", "",
                  _table([_comparison(line) for line in board.comparisons]), ""]  # fmt: skip
    parts += ["## Definitions", "", *(f"- **{name}**: {text}." for name, text in definitions(board).items())]
    return "\n".join(parts) + "\n"


def provenance(board: Board) -> list[str]:
    """As of when, on which split of which data, by which commit and command."""
    origin, first = board.provenance, board.models[0]
    first_command, *others = origin["command"].split(" && ")
    more = f" and {len(others)} more, all in {board.dataset}.json" if others else ""
    lines = [f"As of {origin['date']}, commit {origin['commit']}, by `{first_command}`{more}."]
    lines += [f"Split {origin['split_id']} of data {origin['dataset_hash']}."]
    if first.test_start is not None:
        lines += [f"Cases from {first.test_start} to {first.test_end or 'the end of the data'}."]
    lines += ["Brackets hold 95% intervals from a bootstrap by user; every rank is of the full catalogue."]
    return [*lines, f"Registered, for the gate to judge: {board.registered or 'none'}."]


def size_line(board: Board, target: str) -> str:
    """Users, cases and the share of cold cases of a target."""
    found = next(one.targets[target] for one in board.models if target in one.targets)
    cold = found.get("slices", {}).get("cold", {}).get("cases", 0)
    share = f"{cold / found['cases']:.1%} of them cold (no history)"
    return f"{found['users']:,} users, {found['cases']:,} cases, {share}."


def rows(board: Board, target: str) -> list[dict[str, str]]:
    """One dict of column -> text per model, best NDCG@10 first; the oracle, which is no model, on top."""
    frozen = target == "next_item" and any(FROZEN in one.targets for one in board.models)
    return [_row(board, one, target, frozen) for one in _everyone(board, target)]


def segment_rows(board: Board, target: str) -> list[dict[str, str]]:
    """One dict of column -> text per model, in the order of `rows`; empty where no case is in a segment."""
    everyone = _everyone(board, target)
    slices = everyone[0].targets[target].get("slices", {})
    used = {name: slices[name]["cases"] for name in board.segments if name in slices}
    return [
        {"model": _name(board, one, target)}
        | {
            f"{name.removeprefix(SEGMENT)} ({cases:,})": spread(one.entry(target, PRIMARY, name))
            for name, cases in used.items()
        }
        for one in everyone
        if used
    ]


def definitions(board: Board) -> dict[str, str]:
    """What every published figure means."""
    return (
        {name.strip("_"): text for name, text in (DEFINITIONS | SLICE_DEFINITIONS).items()}
        | board.segments
        | {
            "frozen trends": "NDCG@10 with item trends as of test_start instead of as of each case",
            "valid": "NDCG@10 on the validation window, by which parameters and seeds are chosen",
            "fit s": "seconds to fit on everything before test_start",
        }
    )


def _everyone(board: Board, target: str) -> list[Measured]:
    oracle = [board.oracle] if board.oracle is not None and target in board.oracle.targets else []
    return [*oracle, *board.ranked(target)]


def _row(board: Board, one: Measured, target: str, frozen: bool) -> dict[str, str]:
    row = {
        "model": _name(board, one, target),
        "NDCG@10": spread(one.entry(target, PRIMARY)),
        "Recall@10": spread(one.entry(target, f"recall@{HEADLINE}")),
        "warm NDCG@10": figure(one.point(target, PRIMARY, "warm")),
        "cold NDCG@10": figure(one.point(target, PRIMARY, "cold")),
    }
    if target == "next_item":
        row["NDCG@10 by user"] = figure(one.point(target, f"{PRIMARY}_by_user"))
    if frozen:
        row["frozen trends"] = figure(one.point(FROZEN, PRIMARY))
    row["coverage@10"] = figure(one.point(target, f"coverage@{HEADLINE}"))
    row["valid"] = figure(point(one.validation.get(target, {}).get(PRIMARY)))
    row["fit s"] = NOTHING if one.oracle or one.fit_seconds is None else f"{one.fit_seconds:,.1f}"
    return row | {"seeds": NOTHING if one.oracle else str(len(one.seeds))}


def _name(board: Board, one: Measured, target: str) -> str:
    if one.oracle:
        return "best reachable (oracle)"
    marks = [text for text, holds in (("best baseline", board.best_baseline[target] == one.label),
                                      ("registered", board.registered == one.label)) if holds]  # fmt: skip
    return one.label + (f" ({', '.join(marks)})" if marks else "")


def _comparison(line: dict[str, Any]) -> dict[str, str]:
    warm, cold = (line["slices"].get(name, {}) for name in ("warm", "cold"))
    return {
        "target": line["target"],
        "model": line["model"],
        "against": line["against"],
        f"difference in {PRIMARY}": spread(line, "difference", sign=True),
        "relative": percent(line["relative"]),
        "warm": spread(warm, "difference", sign=True),
        "warm, relative": percent(warm.get("relative")),
        "cold": spread(cold, "difference", sign=True),
    }


def spread(entry: dict[str, Any], key: str = "mean", sign: bool = False) -> str:
    """`0.123 [0.101, 0.145]`."""
    if entry.get(key) is None:
        return NOTHING
    bounds = f" [{figure(entry['low'], sign)}, {figure(entry['high'], sign)}]" if entry.get("low") is not None else ""
    return figure(entry[key], sign) + bounds


def figure(value: float | None, sign: bool = False) -> str:
    """Four decimals; a dash for what was not measured."""
    return NOTHING if value is None else f"{value:+.4f}" if sign else f"{value:.4f}"


def percent(value: float | None) -> str:
    """Signed percent; a dash for what is undefined."""
    return NOTHING if value is None else f"{value:+.1%}"


def _table(lines: list[dict[str, str]]) -> str:
    head = list(lines[0])
    text = [head, ["---"] * len(head), *([line[name] for name in head] for line in lines)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in text)


REACHABLE = "best reachable"


def summary(result: dict[str, Any], primary: str) -> str:
    """One line a model: NDCG@10 of both targets with 95% intervals, and the seconds that its fit took.

    Args:
        result: experiments/results/<dataset>.json.
        primary: the target that orders the lines, best first.
    """
    models = sorted(result["models"].items(), key=lambda pair: -(_mean(pair[1], primary) or 0))
    lines = [[_summary_name(result, label), *_figures(one), f"{one['fit_seconds']:,.1f}"] for label, one in models]
    if "oracle" in result:
        lines.insert(0, [REACHABLE, *_figures(result["oracle"]), NOTHING])
    head = ["model", *(f"{target} NDCG@10 [95%]" for target in TARGETS), "fit s"]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *lines]]
    sizes = ", ".join(_size(models[0][1], target) for target in TARGETS)
    return "\n".join([*(line.rstrip() for line in text), f"({sizes}; * best baseline, + the candidate of the gate)"])


def _summary_name(result: dict[str, Any], label: str) -> str:
    best = label in result["best_baseline"].values()
    return label + ("*" if best else "") + ("+" if label == result["registered"] else "")


def _figures(one: dict[str, Any]) -> list[str]:
    return [spread(_entry(one, target)) for target in TARGETS]


def _entry(one: dict[str, Any], target: str) -> dict[str, Any]:
    return one["targets"].get(target, {}).get("metrics", {}).get(PRIMARY, {})


def _mean(one: dict[str, Any], target: str) -> float | None:
    return _entry(one, target).get("mean")


def _size(one: dict[str, Any], target: str) -> str:
    found = one["targets"].get(target, {})
    return f"{target}: {found.get('users', 0):,} users, {found.get('cases', 0):,} cases"
