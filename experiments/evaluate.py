"""Rank the test cases with an exported artifact, by the code that answers live requests."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ARTIFACTS, FEATURES, FITTED, INGESTED, METRICS, RANKINGS
from data import files
from data.pages import interval_text
from data.simulator.simulation import Oracle
from data.times import now_iso
from experiments.evaluation.cases import HEADLINE, PRIMARY, TARGETS, SegmentSlices
from experiments.evaluation.comparison import entry_value
from experiments.evaluation.measure import KS, measure
from experiments.evaluation.ranking import catalog_items, rank_by_preference, rank_cases
from features import feature_files
from features.feature_files import Features
from features.sequences import EvaluationCases
from features.trends import TrendLog, TrendSnapshot
from serving.worker.recommender import ArtifactError, Recommender
from training import provenance, tracking, validation
from training.plots import TARGET_COLORS, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORACLE = "oracle"  # the label of the simulator's true preferences
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


def evaluate(
    label: str, features: Features, items: pd.DataFrame, settings: params.Params
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rankings of both targets, and the content of the metrics file."""
    try:
        recommender = Recommender.load(ARTIFACTS / label)
    except ArtifactError as error:
        raise UserError(f"{error}; run `python -m serving.export --model {label}` first") from None
    manifest = recommender.manifest
    if manifest["split_id"] != features.description["split_id"]:
        raise UserError(f"evaluate: {label} was exported on another split; run `python -m serving.export` again")
    batch_size = settings.train.eval_batch_size

    def rank(cases: EvaluationCases, trends: TrendLog | TrendSnapshot) -> pd.DataFrame:
        return rank_cases(recommender, features, cases, trends, batch_size)

    trends = features.trend_log()
    rankings, metrics = _measure(lambda cases: rank(cases, trends), features, items, settings, f"--model {label}")
    if recommender.model.channels:
        frozen = rank(validation.cases(features)["next_item"], recommender.artifact.trends)
        measured = measure(frozen, items, settings.seed, settings.evaluate.resamples, [HEADLINE])
        if "next_item" in measured:
            kept = ("users", "cases", "metrics")
            metrics["targets"]["next_item_frozen"] = {key: measured["next_item"][key] for key in kept}
    fits = {
        cut: json.loads((FITTED / label / cut / "fit.json").read_text(encoding="utf-8")) for cut in ("valid", "test")
    }
    return rankings, metrics | {
        "label": label,
        "model": manifest["model"],
        "params": manifest["params"],
        "fit_seconds": fits["test"]["fit_seconds"],
        "baseline": recommender.model.baseline,
        "learned": recommender.model.learned,
        "validation": {target: {PRIMARY: value} for target, value in fits["valid"]["validation"].items()},
        "run_id": manifest["run_id"],
        "ranked": "exactly: the whole catalog is scored",
        "index": manifest.get("index"),
    }


def evaluate_oracle(
    features: Features, items: pd.DataFrame, settings: params.Params
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The same for the simulator's true preferences. Raises UserError if the dataset is not simulated."""
    path = INGESTED / "oracle.npz"
    if not path.exists():
        raise UserError(f"{path} does not exist: true preferences are known only for simulated data")
    oracle, batch_size = Oracle.load(path), settings.train.eval_batch_size
    rankings, metrics = _measure(
        lambda cases: rank_by_preference(oracle, features, cases, batch_size), features, items, settings, "--oracle"
    )
    kind = {"label": ORACLE, "model": ORACLE, "oracle": True, "baseline": False, "learned": False}
    return rankings, metrics | kind | {"params": {}, "fit_seconds": None}


def _measure(
    rank: Callable[[EvaluationCases], pd.DataFrame], features: Features, items: pd.DataFrame, settings: params.Params,
    option: str,
) -> tuple[pd.DataFrame, dict[str, Any]]:  # fmt: skip
    """Rankings of both targets with their segments; their metrics and provenance."""
    segments = SegmentSlices.of(settings.segments.plain(), features)
    tables = [
        rank(part).assign(segments=segments.column(features, part)) for part in validation.cases(features).values()
    ]
    rankings = pd.concat(tables, ignore_index=True)
    return rankings, {
        "targets": measure(rankings, items, settings.seed, settings.evaluate.resamples, settings.evaluate.k),
        "segments": segments.meanings(),
        **{name: features.description[name] for name in ("dataset", "dataset_hash", "split_id")},
        "commit": provenance.commit(),
        "date": now_iso(),
        "command": f"python -m experiments.evaluate {option}",
        "seeds": [settings.train.seed],
    }


def log_evaluation(metrics: dict[str, Any]) -> None:
    """Log the content of a metrics file into the run that trained the model, if that is in this registry.

    The headline numbers become MLflow metrics under the same names for every model; evaluation.json has all numbers.
    """
    run = tracking.reopen_run(metrics["run_id"])
    if run is None:
        return  # pulled from a remote: the metrics file has the numbers
    run.log_metrics(mlflow_metrics(metrics))
    run.tag(note=description(metrics))
    run.log_json(metrics, "evaluation")
    targets = {target: metrics["targets"][target] for target in TARGETS if target in metrics["targets"]}
    if targets:
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
    """NDCG and Recall by list length, one line per target."""
    figure, axes = panels(len(PLOTTED))
    for axis, (title, metric) in zip(axes, PLOTTED.items(), strict=True):
        for target, measured in targets.items():
            entries = {k: measured["metrics"][f"{metric}@{k}"] for k in KS if f"{metric}@{k}" in measured["metrics"]}
            means = [entry["mean"] for entry in entries.values()]
            axis.plot(list(entries), means, color=TARGET_COLORS[target], marker=".", label=target)
        axis.set(title=title, xlabel="k", ylim=(0, None))
        axis.legend(frameon=False)
    return figure


def _mlflow_name(key: str) -> str:
    return key.replace("@", "_")  # MLflow allows no @


def write_metrics(label: str, rankings: pd.DataFrame, metrics: dict[str, Any], items: pd.DataFrame) -> None:
    """Write rankings/<label>.parquet, rankings/items.parquet and metrics/<label>.json."""
    for folder in (RANKINGS, METRICS):
        folder.mkdir(parents=True, exist_ok=True)
    rankings.to_parquet(RANKINGS / f"{label}.parquet", index=False)
    items.to_parquet(RANKINGS / "items.parquet", index=False)  # the same bytes from every model
    files.write_text(METRICS / f"{label}.json", json.dumps(metrics, indent=1, sort_keys=True))


def headline(targets: dict[str, Any]) -> str:
    """`NDCG@10 next_item 0.162 (0.155 with frozen trends), horizon 0.182`."""
    means = {target: measured["metrics"][PRIMARY]["mean"] for target, measured in targets.items()}
    frozen = f" ({means['next_item_frozen']:.3f} with frozen trends)" if "next_item_frozen" in means else ""
    shown = {"next_item": frozen, "horizon": ""}
    parts = [f"{target} {means[target]:.3f}{note}" for target, note in shown.items() if target in means]
    return f"NDCG@10 {', '.join(parts)}"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__)
    parser.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="LABEL", help="a key of params.yaml: train.models"
    )
    parser.add_argument("--oracle", action="store_true", help="rank by the simulator's true preferences, too")
    arguments = parser.parse_args(argv)
    if not arguments.model and not arguments.oracle:
        parser.error("one of --model and --oracle is required")
    settings = params.load()
    features = feature_files.load_features(FEATURES / "test")
    items = catalog_items(features)
    for label in [*arguments.model, *([ORACLE] if arguments.oracle else [])]:
        started = time.perf_counter()
        if label == ORACLE:
            rankings, metrics = evaluate_oracle(features, items, settings)
        else:
            rankings, metrics = evaluate(label, features, items, settings)
            log_evaluation(metrics)
        write_metrics(label, rankings, metrics, items)
        line = f"evaluated {label} (test) in {time.perf_counter() - started:.0f} s: {headline(metrics['targets'])}"
        if index := metrics.get("index"):
            line += f"; ranked exactly, served through an index with recall@20 {index['recall@20']:.3f}"
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
