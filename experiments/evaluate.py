"""STAGE evaluate: rank the test cases with an exported artifact, by the code that answers live requests."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ARTIFACTS, FEATURES, FITTED, METRICS, RANKINGS
from experiments.evaluation import mlflow_log
from experiments.evaluation.measure import measure
from experiments.evaluation.slices import Segments
from features import feature_files
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, batches
from features.trends import ALL, TrendLog, TrendSnapshot
from serving.worker.recommender import ArtifactError, Recommender
from training import provenance, validation
from training.threads import side_by_side

RANKED = 100


def rank_cases(
    recommender: Recommender, features: Features, cases: EvaluationCases, trends: TrendLog | TrendSnapshot, size: int
) -> pd.DataFrame:
    """The rankings table of one target: see PROTOCOL's rankings file; one row per case."""
    ranked = np.zeros((len(cases), RANKED), dtype=np.int64)
    ranks = np.zeros(len(cases.truth), dtype=np.int64)
    model = recommender.model
    at = validation.moments(cases, features.description["refresh_minutes"])

    def work(part: tuple[np.ndarray, Batch]) -> None:
        rows, batch = part
        top, found = recommender.rank(batch, validation.truth_pairs(cases, rows), RANKED)
        ranked[rows, : top.shape[1]] = top.numpy()
        ranks[validation.truth_positions(cases, rows)] = found.numpy()

    side_by_side(batches(features.log, cases, trends, model.channels, at, size, model.max_history), work)
    return table(features, cases, ranked, ranks)


def table(features: Features, cases: EvaluationCases, ranked: np.ndarray, ranks: np.ndarray) -> pd.DataFrame:
    """Row numbers become ids. `ranked` is (n, 100) item rows, `ranks` one per true item."""
    ids = np.array(["", *features.vocabulary.ids], dtype=object)
    users = np.array(features.users, dtype=object)[cases.user]
    splits = cases.truth_offsets[1:-1]
    times = pd.Series(cases.time).astype("datetime64[us]").dt.tz_localize("UTC")
    _, owner, activity = np.unique(cases.user, return_inverse=True, return_counts=True)
    truth = [list(part) for part in np.split(ids[cases.truth], splits)]
    suffix = [",".join(sorted(items)) if cases.target == "next_item" else "" for items in truth]
    # Ties of one user and moment are told apart by what was taken.
    names = zip(cases.target + ":" + users + ":" + cases.time.astype(str), suffix, strict=True)
    return pd.DataFrame(
        {
            "case_id": [f"{name}:{rest}" if rest else name for name, rest in names],
            "user_id": users,
            "target": cases.target,
            "time": times,
            "history_length": (cases.end - features.log.offsets[cases.user]).astype(np.int32),
            "activity": activity[owner].astype(np.int32),
            "ranked": [[item for item in row if item] for row in ids[ranked]],
            "truth": truth,
            "true_ranks": [part.astype(np.int32) for part in np.split(ranks, splits)],
        }
    )


def catalogue(features: Features) -> pd.DataFrame:
    """The items that were ranked, with what the metrics read of them: see the rankings file's items.parquet."""
    counts = features.trend_log().at(np.array([features.cut_us]), [ALL])[0, 1:, 0]
    past = features.past
    first = np.full(len(features.vocabulary), np.iinfo(np.int64).max)
    np.minimum.at(first, past.items, past.times)
    return pd.DataFrame(
        {
            "item_id": features.vocabulary.ids,
            "popularity": counts.astype(np.int64),
            "vector": list(features.item_features[1:]),
            "age_days": (features.cut_us - first[1:]) / 86_400e6,  # since its first event
            "catalogue": True,
        }
    )


def evaluate(label: str, features: Features, settings: params.Params) -> tuple[pd.DataFrame, dict]:
    """Rankings of both targets, and the metrics file's content."""
    try:
        recommender = Recommender.load(ARTIFACTS / label)
    except ArtifactError as error:
        raise UserError(f"{error}; run `python -m serving.export --model {label}` first") from None
    manifest = recommender.manifest
    if manifest["split_id"] != features.description["split_id"]:
        raise UserError(f"evaluate: {label} was exported on another split; run `python -m serving.export` again")
    size, seed = settings.train.eval_batch_size, settings.seed
    every = validation.cases(features)
    live = features.trend_log()
    segments = Segments.of(settings.segments.plain(), features)
    tables = [
        rank_cases(recommender, features, cases, live, size).assign(segments=segments.column(features, cases))
        for cases in every.values()
    ]
    rankings = pd.concat(tables, ignore_index=True)
    items = catalogue(features)
    measured = measure(rankings, items, seed, settings.evaluate.resamples, settings.evaluate.k)
    if recommender.model.channels:
        frozen = rank_cases(recommender, features, every["next_item"], recommender.artifact.trends, size)
        still = measure(frozen, items, seed, settings.evaluate.resamples, [10])["next_item"]
        measured["next_item_frozen"] = {key: still[key] for key in ("users", "cases", "metrics")}
    fit = json.loads((FITTED / label / "test" / "fit.json").read_text())
    found = json.loads((FITTED / label / "valid" / "fit.json").read_text())
    facts = {
        "label": label,
        "model": manifest["model"],
        "params": manifest["params"],
        "fit_seconds": fit["fit_seconds"],
        "baseline": recommender.model.baseline,
        "learned": recommender.model.learned,
        "validation": {target: {"ndcg@10": value} for target, value in found["validation"].items()},
        "run_id": manifest["run_id"],
        "ranked": "exactly: the whole catalogue scored",
        "index": manifest.get("index"),
        "targets": measured,
        "segments": segments.meanings(),
        **provenance_of(features, settings, f"python -m experiments.evaluate --model {label}"),
    }
    return rankings, facts


def provenance_of(features: Features, settings: params.Params, command: str) -> dict:
    """What stands with every number."""
    description = features.description
    return {
        "dataset": description["dataset"],
        "dataset_hash": description["dataset_hash"],
        "split_id": description["split_id"],
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command,
        "seeds": [settings.train.seed],
    }


def write(label: str, rankings: pd.DataFrame, facts: dict, items: pd.DataFrame) -> None:
    """out/experiments/rankings/<label>.parquet and metrics/<label>.json, and the items that all models rank."""
    for folder in (RANKINGS, METRICS):
        folder.mkdir(parents=True, exist_ok=True)
    rankings.to_parquet(RANKINGS / f"{label}.parquet", index=False)
    items.to_parquet(RANKINGS / "items.parquet", index=False)  # the same bytes from every model
    (METRICS / f"{label}.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def headline(targets: dict) -> str:
    """One line for people."""
    means = {target: found["metrics"]["ndcg@10"] for target, found in targets.items()}
    return ", ".join(
        f"{target} NDCG@10 {entry['mean']:.4f} [{entry['low']:.4f}, {entry['high']:.4f}]"
        for target, entry in means.items()
        if entry["low"] is not None
    )


def ranked(index: dict | None) -> str:
    """How the figures were ranked, and how far what is served may differ."""
    if index is None:
        return "ranked exactly, as it is served"
    recall, older = index["recall@20"], index["recall@20_of_older_trends"]
    worst = ", ".join(f"{value:.4f} with trends {age} apart" for age, value in older.items())
    return f"ranked exactly; served through an index that finds {recall:.4f} of the exact best 20 ({worst})"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a label of params.yaml: train.models")
    label = parser.parse_args(argv).model
    settings = params.load()
    features = feature_files.load(FEATURES / "test")
    rankings, facts = evaluate(label, features, settings)
    write(label, rankings, facts, catalogue(features))
    mlflow_log.log_evaluation(facts)
    print(f"evaluate: {label}: {headline(facts['targets'])}; {ranked(facts['index'])} -> {METRICS}/{label}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
