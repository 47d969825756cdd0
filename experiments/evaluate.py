"""Rank the test cases with an exported artifact, by the code that answers live requests."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ARTIFACTS, FEATURES, FITTED, INGESTED
from data.simulator.simulation import Oracle
from data.times import now_iso
from experiments.evaluation import mlflow_log
from experiments.evaluation.cases import HEADLINE, PRIMARY
from experiments.evaluation.measure import measure
from experiments.evaluation.metrics_files import headline, write_metrics
from experiments.evaluation.ranking import catalog_items, rank_by_preference, rank_cases
from experiments.evaluation.slices import SegmentSlices
from features import feature_files
from features.feature_files import Features
from features.sequences import EvaluationCases
from features.trends import TrendLog, TrendSnapshot
from serving.worker.recommender import ArtifactError, Recommender
from training import provenance, validation

ORACLE = "oracle"  # the label of the simulator's true preferences


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
        measured = measure(frozen, items, settings.seed, settings.evaluate.resamples, [HEADLINE])["next_item"]
        metrics["targets"]["next_item_frozen"] = {key: measured[key] for key in ("users", "cases", "metrics")}
    fits = {cut: json.loads((FITTED / label / cut / "fit.json").read_text("utf-8")) for cut in ("valid", "test")}
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
    """The same for the simulator's true preferences.

    Raises:
        UserError: the dataset is not simulated.
    """
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


def index_text(index: dict[str, Any] | None) -> str:
    """What the numbers leave out where a model is served through an index; empty for exact serving."""
    if index is None:
        return ""
    recall, older = index["recall@20"], index["recall@20_of_older_trends"]
    with_age = ", ".join(f"{value:.3f} with trends {age} old" for age, value in older.items())
    return f"; ranked exactly, served through an index with recall@20 {recall:.3f} ({with_age})"


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
            mlflow_log.log_evaluation(metrics)
        write_metrics(label, rankings, metrics, items)
        seconds, index = time.perf_counter() - started, index_text(metrics.get("index"))
        print(f"evaluated {label} (test) in {seconds:.0f} s: {headline(metrics['targets'])}{index}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
