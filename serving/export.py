"""STAGE export: the model fitted at the test cut -> artifact folder, with golden answers, parity-checked."""

from __future__ import annotations

import config.threads  # noqa: F401  # before torch, which reads how threads wait

# isort: split

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ARTIFACTS, FEATURES, FITTED
from data.columns import DAY
from data.times import to_iso
from features import feature_files
from features.feature_files import Features
from serving.artifact import index_build, item_tables
from serving.artifact.item_tables import Sides
from serving.worker import rerank
from serving.worker.recommender import Recommender
from training import provenance
from training.model_factory import sizes_of
from training.models import artifact
from training.threads import one_thread

GOLDEN_REQUESTS = 16
FORMAT = 1


def synthetic_requests(features: Features, seed: int) -> list[dict]:
    """Requests on invented histories at stated times: nobody's data, and every path (empty, unknown, long)."""
    generator = np.random.default_rng(seed)
    requests = []
    for number, length in enumerate(np.linspace(0, 60, GOLDEN_REQUESTS).astype(int)):
        length = min(length, len(features.vocabulary) - 1)
        items = generator.choice(len(features.vocabulary) - 1, size=length, replace=False)
        days = np.sort(generator.uniform(0, 30, size=length))
        time_us = features.cut_us + number * DAY // 4
        history = [
            {"item_id": features.vocabulary.ids[item], "event_time": to_iso(time_us - int((31 - day) * DAY))}
            for item, day in zip(items, days, strict=True)
        ]
        if number % 5 == 1:
            history.append({"item_id": "unknown-item", "event_time": to_iso(time_us - DAY)})
        requests.append({"history": history, "k": 20, "time": to_iso(time_us), "request_id": f"golden-{number}"})
    return requests


def write(folder: Path, weights: Path, fit: dict, features: Features, settings: params.Params, sides: Sides) -> None:
    """Write the artifact folder; its golden answers come from loading it back.

    Args:
        fit: what `training.fit_files.save_fit` wrote beside the weights; of a refit on all events, `refit_of` names the parent.
        sides: what is known of users and items.

    Raises:
        UserError: the loaded artifact does not score as the fitted model does.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    description = features.description
    channels = description["channels"]
    trends = features.trend_log().at(np.array([features.cut_us]), channels)[0]
    config = {
        "model": fit["hyperparameters"],
        "sizes": sizes_of(features).as_dict(),
        "encoders": description["encoders"],
        "repeats": description["repeats"],
        "refresh_minutes": description["refresh_minutes"],
        "trends_time_us": features.cut_us,
        "serve": settings.serve.model_dump(),
    }
    shutil.copyfile(weights, folder / "weights.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    features.vocabulary.save(folder / "vocabulary.json")
    (folder / "items.json").write_text(json.dumps(features.titles, ensure_ascii=False))
    save_arrays({"trends": np.ascontiguousarray(trends)}, folder / "trends.safetensors")
    if settings.serve.diversity:
        save_arrays({"items": np.ascontiguousarray(features.item_features)}, folder / rerank.CONTENT_FILE)
    item_tables.write(folder, settings.segments.plain(), sides, features)
    manifest = {
        "format": FORMAT,
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
    _seal(folder, manifest)
    recommender = Recommender.load(folder)
    if index_build.wanted(settings.serve.index, recommender.model, len(features.vocabulary) - 1):
        manifest["index"] = index_build.add(folder, recommender, features, settings)
        _seal(folder, manifest)
        recommender = Recommender.load(folder)
    with one_thread():
        requests = synthetic_requests(features, settings.seed)
        golden = [
            {"request": body, "answer": answer}
            for body, answer in zip(requests, recommender.recommend(requests), strict=True)
        ]
        _check_parity(recommender, golden, weights)
    lines = [json.dumps(entry, ensure_ascii=False) for entry in golden]
    (folder / "golden.jsonl").write_text("\n".join(lines) + "\n")
    _seal(folder, manifest)


def _seal(folder: Path, manifest: dict) -> None:
    files = sorted(path.name for path in folder.iterdir() if path.name != artifact.MANIFEST)
    hashes = {name: artifact.hash_file(folder / name) for name in files}
    (folder / artifact.MANIFEST).write_text(json.dumps(manifest | {"files": hashes}, indent=1))


def _check_parity(recommender: Recommender, golden: list[dict], weights: Path) -> None:
    """Each request asked alone must be answered as it was in the batch, to the bit."""
    for entry in golden:
        (alone,) = recommender.recommend([entry["request"]])
        if alone != entry["answer"]:
            name = entry["request"]["request_id"]
            raise UserError(f"export: {weights}: request {name} is answered differently alone and in a batch")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.export", description=__doc__)
    parser.add_argument(
        "--model", nargs="+", action="extend", required=True, metavar="LABEL", help="a key of params.yaml: train.models"
    )
    labels = parser.parse_args(argv).model
    torch.set_num_threads(1)
    settings = params.load()
    for label in labels:
        if not (FITTED / label / "test" / "fit.json").exists():
            missing = FITTED / label / "test"
            raise UserError(f"{missing} is missing; run `python -m training.train --model {label} --cut test` first")
    features, sides = feature_files.load_features(FEATURES / "test"), Sides.read()
    for label in labels:
        started, fitted, folder = time.monotonic(), FITTED / label / "test", ARTIFACTS / label
        fit = json.loads((fitted / "fit.json").read_text())
        write(folder, fitted / "weights.safetensors", fit, features, settings, sides)
        seconds = time.monotonic() - started
        print(f"exported {label} in {seconds:.1f} s: {folder} with {GOLDEN_REQUESTS} golden answers", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
