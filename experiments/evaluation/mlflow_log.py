"""Log an evaluation into the MLflow run that trained the model: metrics, plots and a description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.evaluation.cases import HEADLINE, PRIMARY, TARGETS
from experiments.evaluation.measure import KS
from experiments.evaluation.metrics_files import entry_value
from experiments.pages import interval_text
from training import tracking
from training.plots import GREY, TARGET_COLORS, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTTED = {"NDCG@k": "ndcg", "Recall@k": "recall"}
# The UI lists metrics in the order of logging. Only what is plotted by k is logged at every k.
LOGGED = tuple(
    dict.fromkeys(
        [PRIMARY]
        + [f"{name}@{k}" for name in PLOTTED.values() for k in KS]
        + [f"{name}@{HEADLINE}" for name in ("hr", "map", "coverage", "gini", "diversity", "novelty",
                                             "popularity_percentile", "personalization")]
        + ["mrr@100"]
    )
)  # fmt: skip
SHOWN = {PRIMARY: "NDCG@10", f"recall@{HEADLINE}": "Recall@10", f"coverage@{HEADLINE}": "coverage@10"}


def log_evaluation(metrics: dict[str, Any]) -> None:
    """Log the content of a metrics file into its run; skip a run that does not exist here.

    The headline numbers become MLflow metrics under the same names for every model; all numbers go along as
    evaluation.json.
    """
    run = tracking.reopen_run(metrics["run_id"])
    if run is None:
        return  # pulled from a remote: the metrics file has the numbers
    run.log_metrics(mlflow_metrics(metrics))
    run.tag(note=description(metrics))
    run.log_json(metrics, "evaluation")
    targets = {target: metrics["targets"][target] for target in TARGETS if target in metrics["targets"]}
    run.log_figure(plot_by_k(targets), "metrics_by_k")
    run.log_figure(plot_by_slice(targets), "ndcg_by_slice")


def mlflow_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """`valid/<target>/ndcg_10`, by which the model was chosen, and `test/<target>/<metric>`."""
    logged = {
        f"valid/{target}/{_mlflow_name(key)}": value
        for target, scores in metrics["validation"].items()
        for key, value in scores.items()
    }
    for target, measured in metrics["targets"].items():
        # With frozen trends only the headline: models without trends have no such numbers to compare.
        for key in LOGGED if target in TARGETS else (PRIMARY,):
            value = entry_value(measured["metrics"].get(key, {}))
            if value is not None:
                logged[f"test/{target}/{_mlflow_name(key)}"] = value
    return logged


def description(metrics: dict[str, Any]) -> str:
    """The run's description: what the model reached on the test period, with intervals, and where it comes from."""
    reached = [
        f"{target} **{interval_text(metrics['targets'][target]['metrics'][PRIMARY])}**"
        for target in TARGETS
        if target in metrics["targets"]
    ]
    lines = [
        f"**{metrics['label']}** on the test period of `{metrics['dataset']}`: NDCG@10 {', '.join(reached)}.",
        "",
        "Fitted on everything before the `test` cut, measured on what follows. Brackets: 95% intervals by user.",
        "",
        "| target | cases | " + " | ".join(SHOWN.values()) + " | NDCG@10 on validation |",
        "| --- " * (len(SHOWN) + 3) + "|",
    ]
    for target, measured in metrics["targets"].items():
        cells = [interval_text(measured["metrics"].get(key, {})) for key in SHOWN]
        cells.append(interval_text(metrics["validation"].get(target, {}).get(PRIMARY)))
        lines.append(f"| {target} | {measured['cases']:,} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Split `{metrics['split_id']}`. All numbers: artifact `evaluation.json`."])


def plot_by_k(targets: dict[str, Any]) -> Figure:
    """NDCG and Recall by list length, one line per target, with 95% intervals."""
    figure, axes = panels(len(PLOTTED))
    for axis, (title, metric) in zip(axes, PLOTTED.items(), strict=True):
        for target, measured in targets.items():
            lengths = [k for k in KS if f"{metric}@{k}" in measured["metrics"]]
            _plot_band(axis, lengths, [measured["metrics"][f"{metric}@{k}"] for k in lengths], target)
        axis.set(title=title, xlabel="k", ylim=(0, None))
        axis.legend(frameon=False)
    return figure


def plot_by_slice(targets: dict[str, Any]) -> Figure:
    """NDCG@10 of each slice with its 95% interval and number of cases; the dashed line is the mean of all cases."""
    longest = max(len(measured["slices"]) for measured in targets.values())
    figure, axes = panels(len(targets), height=1.4 + 0.25 * longest, labels=2.1)
    for axis, (target, measured) in zip(axes, targets.items(), strict=True):
        slices = list(measured["slices"].items())[::-1]
        entries = [part["metrics"][PRIMARY] for _, part in slices]
        errors = [
            [0 if entry["low"] is None else abs(entry[bound] - entry["mean"]) for entry in entries]
            for bound in ("low", "high")
        ]
        means = [entry["mean"] for entry in entries]
        axis.errorbar(means, range(len(slices)), xerr=errors, fmt="o", color=TARGET_COLORS[target], capsize=2)
        axis.set_yticks(range(len(slices)), [f"{name} ({part['cases']:,})" for name, part in slices])
        axis.axvline(measured["metrics"][PRIMARY]["mean"], color=GREY, linestyle="--")
        axis.set(title=f"NDCG@10 by slice, {target}", xlim=(0, None))
    return figure


def _plot_band(axis: Axes, xs: list[int], entries: list[dict], target: str) -> None:
    color = TARGET_COLORS[target]
    axis.plot(xs, [entry["mean"] for entry in entries], color=color, marker=".", label=target)
    if all(entry["low"] is not None for entry in entries):
        lows, highs = ([entry[bound] for entry in entries] for bound in ("low", "high"))
        axis.fill_between(xs, lows, highs, color=color, alpha=0.2, linewidth=0)


def _mlflow_name(key: str) -> str:
    return key.replace("@", "_")  # MLflow allows no @
