"""Models as evaluate writes them, and what compare makes of them."""

from __future__ import annotations

import json

from experiments import compare
from experiments.evaluation.measure import measure
from experiments.leaderboard.board import build_board

ORIGIN = {
    "dataset": "made", "dataset_hash": "d1", "split_id": "s1", "commit": "c0ffee", "date": "2026-05-01T00:00:00Z",
    "command": "python -m experiments.evaluate",
}  # fmt: skip
SKILL = {"popularity": 0.5, "ease": 1.0, "ours": 5.0, "oracle": 9.0}


def write_model(out, label, frames, items, **changes):
    """What evaluate writes of one model."""
    names = [f"{label}-{n}.parquet" for n in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        frame.to_parquet(out / "rankings" / name)
    facts = ORIGIN | {
        "label": label, "model": label, "params": {"rate": 0.123456789}, "fit_seconds": 1.23456789,
        "baseline": label in ("popularity", "ease"), "learned": label == "ours", "oracle": label == "oracle",
        "seeds": list(range(len(frames))), "rankings": names, "validation": {"next_item": {"ndcg@10": 0.5}},
        "targets": measure(frames, items, seed=0, resamples=200),
    }  # fmt: skip
    (out / "metrics" / f"{label}.json").write_text(json.dumps(facts | changes), encoding="utf-8")


def build(out, **options):
    return build_board("made", seed=0, resamples=200, out=out, **options)


def run(out, tmp_path, **options):
    paths = compare.write(build(out, **options), out, tmp_path / "results")
    return [path.read_text(encoding="utf-8") for path in paths]


def change(out, name, **changes):
    path = out / "metrics" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
