"""Log an evaluation into the MLflow run that trained the model: metrics, plots and a description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.evaluation.cases import HEADLINE, PRIMARY, TARGETS
from experiments.evaluation.measure import KS
from experiments.evaluation.metrics_files import entry_value
from experiments.pages import interval_text
from training import tracking
from training.plots import TARGET_COLORS, panels

if TYPE_CHECKING:
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
    return (
        f"**{metrics['label']}** on the test period of `{metrics['dataset']}`: NDCG@10 {', '.join(reached)}.\n\n"
        "Fitted on everything before the `test` cut, measured on what follows. Brackets: 95% intervals by user. "
        f"Split `{metrics['split_id']}`. All numbers: artifact `evaluation.json`."
    )


def plot_by_k(targets: dict[str, Any]) -> Figure:
    """NDCG and Recall by list length, one line per target, with 95% intervals."""
    figure, axes = panels(len(PLOTTED))
    for axis, (title, metric) in zip(axes, PLOTTED.items(), strict=True):
        for target, measured in targets.items():
            entries = {k: measured["metrics"][f"{metric}@{k}"] for k in KS if f"{metric}@{k}" in measured["metrics"]}
            color = TARGET_COLORS[target]
            axis.plot(
                list(entries), [entry["mean"] for entry in entries.values()], color=color, marker=".", label=target
            )
            if all(entry["low"] is not None for entry in entries.values()):
                lows, highs = ([entry[bound] for entry in entries.values()] for bound in ("low", "high"))
                axis.fill_between(list(entries), lows, highs, color=color, alpha=0.2, linewidth=0)
        axis.set(title=title, xlabel="k", ylim=(0, None))
        axis.legend(frameon=False)
    return figure


def _mlflow_name(key: str) -> str:
    return key.replace("@", "_")  # MLflow allows no @
