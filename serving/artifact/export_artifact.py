"""Write the artifact folder of a fitted model: everything that a worker needs to answer, with golden answers.

Legend: U users, R rules, N item rows (PAD's included).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file as save_arrays

from config import params
from config.command import UserError
from config.paths import INGESTED
from data.columns import DAY, ITEM
from data.tables import read_table
from data.times import to_iso
from features.feature_files import Features
from features.segment_membership import collect_inputs, membership
from features.segment_rules import Rule, split_values
from serving.artifact import build_index
from serving.worker import rerank
from serving.worker.fallback_level import SEGMENTS_FILE
from serving.worker.recommender import Recommender
from training import provenance
from training.model_factory import sizes_of
from training.models import artifact
from training.threads import one_thread

GOLDEN_REQUESTS = 16
GOLDEN_ITEMS = 20
MAX_GOLDEN_HISTORY = 60
MAX_ATTRIBUTE_VALUES = 1000  # a column with more (a title, a text) identifies items and groups none
POPULAR_DAYS = 30
POPULAR_ITEMS = 200


@dataclass(frozen=True)
class SideTables:
    """The ingested side tables of users and items."""

    users: pd.DataFrame
    items: pd.DataFrame

    @classmethod
    def read(cls, folder: Path = INGESTED) -> SideTables:
        """Read them from a dataset's folder; raises UserError if ingest has not run."""
        return cls(*(read_table(folder / f"{name}.parquet", "python -m data.ingest") for name in ("users", "items")))


def export_artifact(
    folder: Path, weights: Path, fit: dict, features: Features, settings: params.Params, sides: SideTables
) -> None:
    """Write the artifact folder, load it back, and record its golden answers.

    Args:
        fit: what `training.fitting.save_fit` wrote next to the weights; a refit on all events names its parent in `refit_of`.

    Raises:
        UserError: the loaded artifact answers a request differently alone and in a batch.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    description, rules = features.description, settings.segments.plain()
    config = {
        "model": fit["hyperparameters"],
        "sizes": sizes_of(features).as_dict(),
        "encoders": description["encoders"],
        "repeats": description["repeats"],
        "numeric_ids": description["numeric_ids"],
        "refresh_minutes": description["refresh_minutes"],
        "trends_time_us": features.cut_us,
        "serve": settings.serve.model_dump(),
    }
    documents = {
        "config.json": config,
        "items.json": features.titles,
        rerank.ATTRIBUTES_FILE: item_attributes(sides.items, features.vocabulary.ids),
        SEGMENTS_FILE: {"rules": rules, "popular": popular_by_segment(rules, sides, features)},
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    features.vocabulary.save(folder / "vocabulary.json")
    shutil.copyfile(weights, folder / "weights.safetensors")
    trends = features.trend_log().at(np.array([features.cut_us]), description["channels"])[0]
    save_arrays({"trends": np.ascontiguousarray(trends)}, folder / "trends.safetensors")
    if settings.serve.diversity:
        save_arrays({"items": np.ascontiguousarray(features.item_features)}, folder / rerank.CONTENT_FILE)
    manifest = {
        "format": artifact.FORMAT,
        "label": fit["label"],
        "model": fit["hyperparameters"]["name"],
        "params": fit["hyperparameters"],
        "run_id": fit["run_id"],
        "seed": fit.get("seed"),
        **({"refit_of": fit["refit_of"]} if "refit_of" in fit else {}),
        "fit_until": to_iso(features.cut_us),
        "fit_until_us": features.cut_us,
        "commit": provenance.commit(),
        "lock_hash": provenance.lock_hash(),
        **{key: description[key] for key in ("dataset", "dataset_hash", "split_id")},
    }
    _write_manifest(folder, manifest)
    recommender = Recommender.load(folder)
    if build_index.needs_index(settings.serve.index, recommender.model, len(features.vocabulary) - 1):
        manifest["index"] = build_index.add_index(folder, recommender, features, settings)
        _write_manifest(folder, manifest)
        recommender = Recommender.load(folder)
    golden = _golden_answers(recommender, synthetic_requests(features, settings.seed), weights)
    lines = [f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in golden]
    (folder / "golden.jsonl").write_text("".join(lines), encoding="utf-8")
    _write_manifest(folder, manifest)


def synthetic_requests(features: Features, seed: int) -> list[dict]:
    """Golden requests with invented histories: no person's data, but empty, unknown and long histories.

    All are of the cut's moment. The online store's trends are newer than an artifact's or not used, so a request of a
    later time would be answered differently once they are materialized.
    """
    generator = np.random.default_rng(seed)
    num_items = len(features.vocabulary) - 1
    requests = []
    for number, length in enumerate(np.linspace(0, MAX_GOLDEN_HISTORY, GOLDEN_REQUESTS).astype(int)):
        length = min(length, num_items)
        items = generator.choice(num_items, size=length, replace=False)
        days = np.sort(generator.uniform(0, 30, size=length))
        history = [
            {"item_id": features.vocabulary.ids[item], "event_time": to_iso(features.cut_us - int((31 - day) * DAY))}
            for item, day in zip(items, days, strict=True)
        ]
        if number % 5 == 1:
            history.append({"item_id": "unknown-item", "event_time": to_iso(features.cut_us - DAY)})
        time = to_iso(features.cut_us)
        requests.append({"history": history, "k": GOLDEN_ITEMS, "time": time, "request_id": f"golden-{number}"})
    return requests


def item_attributes(items: pd.DataFrame, ids: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """Column -> value -> item rows, for text columns with few values; `Drama|Comedy` counts as two values."""
    table = items.set_index(ITEM).reindex(ids)
    attributes = {}
    for column in table.select_dtypes(["object", "string", "category", "bool"]):
        rows: dict[str, list[int]] = {}
        for row, cell in enumerate(table[column].tolist(), start=1):
            for value in split_values(cell):
                rows.setdefault(value, []).append(row)
        if 0 < len(rows) <= MAX_ATTRIBUTE_VALUES:
            attributes[str(column)] = dict(sorted(rows.items()))
    return attributes


def popular_by_segment(
    rules: Sequence[Rule], sides: SideTables, features: Features
) -> dict[str, list[tuple[int, int]]]:
    """Segment -> (item row, events of the segment's members in the 30 days before the cut), most popular first."""
    facts = collect_inputs(rules, sides.users, sides.items, features.users, features.vocabulary.ids)
    all_users = np.arange(len(features.users))
    is_member = membership(rules, features.log, facts, all_users, np.full(len(all_users), features.cut_us))  # (U, R)
    past = features.past
    recent = (past.times >= features.cut_us - POPULAR_DAYS * DAY) & (past.items != 0)
    popular = {}
    for column, rule in enumerate(rules):
        items = past.items[recent & is_member[past.users, column]]
        counts = np.bincount(items, minlength=len(features.vocabulary))
        best = np.argsort(-counts, kind="stable")[:POPULAR_ITEMS]
        popular[rule["name"]] = [(int(row), int(counts[row])) for row in best if counts[row]]
    return popular


def _write_manifest(folder: Path, manifest: dict) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name != artifact.MANIFEST)
    hashes = {name: artifact.hash_file(folder / name) for name in names}
    text = json.dumps(manifest | {"files": hashes}, indent=1)
    (folder / artifact.MANIFEST).write_text(text, encoding="utf-8")


def _golden_answers(recommender: Recommender, requests: list[dict], weights: Path) -> list[dict]:
    """Answers with one thread, as a worker computes them. A request must be answered the same, to the bit, alone."""
    with one_thread():
        answers = recommender.recommend(requests)
        for request, answer in zip(requests, answers, strict=True):
            if recommender.recommend([request]) != [answer]:
                name = request["request_id"]
                raise UserError(f"export: {weights}: request {name} is answered differently alone and in a batch")
    return [{"request": request, "answer": answer} for request, answer in zip(requests, answers, strict=True)]
