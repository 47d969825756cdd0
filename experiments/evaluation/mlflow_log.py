"""What evaluate found, written into the MLflow run that trained the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.evaluation.cases import TARGETS
from experiments.evaluation.measure import HEADLINE, KS
from training import tracking
from training.plots import COLOUR_OF, GREY, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRIMARY = "ndcg@10"
BY_K = {"NDCG@k": "ndcg", "Recall@k": "recall"}


def of_evaluation(targets: dict) -> dict[str, Figure]:
    """Figures of one model by name; `targets` is what `measure` returned."""
    shown = {target: targets[target] for target in TARGETS if target in targets}
    return {"metrics_by_k": by_k(shown), "ndcg_by_slice": by_slice(shown)}


def by_k(targets: dict) -> Figure:
    """NDCG and Recall by list length, one line per target, with 95% intervals."""
    figure, axes = panels(len(BY_K))
    for axis, (title, metric) in zip(axes, BY_K.items(), strict=True):
        for target, measured in targets.items():
            lengths = sorted(int(key.partition("@")[2]) for key in measured["metrics"] if key.startswith(f"{metric}@")
                             and key.partition("@")[2].isdecimal())  # fmt: skip
            entries = [measured["metrics"][f"{metric}@{k}"] for k in lengths]
            _band(axis, lengths, entries, COLOUR_OF[target], target)
        axis.set(title=title, xlabel="k", ylim=(0, None))
        axis.legend(frameon=False)
    return figure


def by_slice(targets: dict) -> Figure:
    """NDCG@10 of each slice with its 95% interval and number of cases; dashed: over all cases."""
    longest = max(len(measured["slices"]) for measured in targets.values())
    figure, axes = panels(len(targets), height=1.4 + 0.25 * longest, labels=2.1)
    for axis, (target, measured) in zip(axes, targets.items(), strict=True):
        slices = list(measured["slices"].items())[::-1]
        entries = [part["metrics"][PRIMARY] for _, part in slices]
        means, errors = [entry["mean"] for entry in entries], _errors(entries)
        axis.errorbar(means, range(len(slices)), xerr=errors, fmt="o", color=COLOUR_OF[target], capsize=2)
        axis.set_yticks(range(len(slices)), [f"{name} ({part['cases']:,})" for name, part in slices])
        axis.axvline(measured["metrics"][PRIMARY]["mean"], color=GREY, linestyle="--")
        axis.set(title=f"NDCG@10 by slice, {target}", xlim=(0, None))
    return figure


def _band(axis: Axes, xs: list[int], entries: list[dict], colour: str, label: str) -> None:
    axis.plot(xs, [entry["mean"] for entry in entries], color=colour, marker=".", label=label)
    if all(entry["low"] is not None for entry in entries):
        lows, highs = ([entry[bound] for entry in entries] for bound in ("low", "high"))
        axis.fill_between(xs, lows, highs, color=colour, alpha=0.2, linewidth=0)


def _errors(entries: list[dict]) -> list[list[float]]:
    """(2, n) distances from the mean to the bounds; 0 where there is no interval."""
    return [
        [0 if entry["low"] is None else abs(entry[bound] - entry["mean"]) for entry in entries]
        for bound in ("low", "high")
    ]


# By k only what is plotted by k: every other metric at every k would bury these in MLflow's lists.
LOGGED_BY_K = tuple(f"{name}@{k}" for name in ("ndcg", "recall") for k in KS)
AT_HEADLINE = ("hr", "map", "coverage", "gini", "diversity", "novelty", "popularity_percentile", "personalization")
LOGGED_PRIMARY = f"ndcg@{HEADLINE}"
# The UI lists metrics in the order in which they were logged.
LOGGED = tuple(
    dict.fromkeys((LOGGED_PRIMARY, *LOGGED_BY_K, *(f"{name}@{HEADLINE}" for name in AT_HEADLINE), "mrr@100"))
)
SHOWN = {LOGGED_PRIMARY: "NDCG@10", f"recall@{HEADLINE}": "Recall@10", f"coverage@{HEADLINE}": "coverage@10"}


def log_evaluation(facts: dict) -> None:
    """Metrics, plots and a summary into the run that trained the model; a run that is gone is passed over.

    All numbers of the metrics file go along as evaluation.json; the headline ones are MLflow metrics, under the
    same names for every model.
    """
    run = tracking.reopened(facts["run_id"])
    if run is None:
        return  # pulled from a remote: the numbers stand in the metrics file all the same
    run.log_metrics(metrics_of(facts))
    run.tag(note=note(facts))
    run.log_json(facts, "evaluation")
    for name, figure in of_evaluation(facts["targets"]).items():
        run.log_figure(figure, name)


def metrics_of(facts: dict) -> dict[str, float]:
    """MLflow's names and values: `valid/<target>/ndcg_10` that the recipe was chosen by, `test/<target>/<metric>`."""
    found = {
        f"valid/{target}/{_name(key)}": value
        for target, scores in facts["validation"].items()
        for key, value in scores.items()
    }
    for target, measured in facts["targets"].items():
        # With frozen trends only the headline: the other models have no such numbers to compare.
        keys = LOGGED if target in ("next_item", "horizon") else (LOGGED_PRIMARY,)
        values = {key: value_of(measured["metrics"].get(key, {})) for key in keys}
        found |= {f"test/{target}/{_name(key)}": value for key, value in values.items() if value is not None}
    return found


def value_of(entry: dict) -> float | None:
    """A metric's mean over cases, or its value where there is none (coverage, gini)."""
    return entry.get("mean", entry.get("value"))


def note(facts: dict) -> str:
    """The run's description: what was reached on the test window, with intervals, and what it rests on."""
    reached = [
        f"{target} **{_cell(facts['targets'][target]['metrics'][LOGGED_PRIMARY])}**"
        for target in TARGETS
        if target in facts["targets"]
    ]
    lines = [
        f"**{facts['label']}** on the test window of `{facts['dataset']}`: NDCG@10 {', '.join(reached)}.",
        "",
        "Fitted on everything before the `test` cut, measured on what follows it; brackets hold 95% intervals by user.",
        "",
        "| target | cases | " + " | ".join(SHOWN.values()) + " | NDCG@10 on validation |",
        "| --- " * (len(SHOWN) + 3) + "|",
    ]
    for target, measured in facts["targets"].items():
        cells = [_cell(measured["metrics"].get(key, {})) for key in SHOWN]
        chosen_by = facts["validation"].get(target, {}).get("ndcg@10")
        cells.append("" if chosen_by is None else f"{chosen_by:.4f}")
        lines.append(f"| {target} | {measured['cases']:,} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Split `{facts['split_id']}`. Every number: artifact `evaluation.json`."])


def _cell(entry: dict) -> str:
    value = value_of(entry)
    if value is None:
        return ""
    bounded = entry.get("low") is not None
    return f"{value:.4f} [{entry['low']:.4f}, {entry['high']:.4f}]" if bounded else f"{value:.4f}"


def _name(key: str) -> str:
    return key.replace("@", "_")  # MLflow allows no @
