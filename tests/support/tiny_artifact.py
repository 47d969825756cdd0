"""A real artifact over twelve items, small enough to read: for the tests of everything that serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors
from scipy import sparse

from serving.worker.recommender import Recommender
from training.models.artifact import FORMAT, MANIFEST, hash_file
from training.models.base import Sizes, build

ITEMS = [f"item-{number:02d}" for number in range(1, 13)]
CUT_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
PARAMS = {"name": "item_knn", "shrinkage": 1, "num_neighbors": 12, "max_items": 100}


def history(*numbers: int) -> list[dict]:
    """Events of the given items (1-based), a minute apart, before the requests' time."""
    return [
        {"item_id": ITEMS[number - 1], "event_time": f"2026-01-01T00:{minute:02d}:00Z"}
        for minute, number in enumerate(numbers)
    ]


GOLDEN = [
    {"history": [], "k": 5, "time": "2026-01-02T00:00:00Z"},
    {"history": history(1), "k": 5, "time": "2026-01-02T00:00:00Z"},
    {"history": history(2, 7, 3), "k": 12, "time": "2026-01-02T00:00:00Z"},
]


def write(folder: Path, seed: int = 0) -> Path:
    """An item-kNN artifact fitted on 40 invented users; another seed is another model."""
    folder.mkdir(parents=True)
    sizes = Sizes(num_items=len(ITEMS) + 1, content_width=0, channels=["all"])
    model = build(PARAMS, sizes)
    taken = np.random.default_rng(seed).random((40, sizes.num_items)) < 0.3
    taken[:, 0] = False
    model.fit(sparse.csr_matrix(taken.astype(np.float32)), seed)
    save_tensors(model.state_dict(), folder / "weights.safetensors")
    config = {
        "model": PARAMS,
        "sizes": sizes.as_dict(),
        "encoders": {"traits": [], "context": []},
        "repeats": "first",
        "numeric_ids": [],
        "refresh_minutes": 10,
        "trends_time_us": CUT_US,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocabulary.json").write_text(json.dumps(ITEMS), encoding="utf-8")
    (folder / "items.json").write_text(json.dumps([f"Title {item}" for item in ITEMS]), encoding="utf-8")
    save_arrays({"trends": taken.sum(axis=0)[:, None].astype(np.float32)}, folder / "trends.safetensors")
    (folder / "attributes.json").write_text("{}", encoding="utf-8")
    (folder / "segments.json").write_text('{"rules": [], "popular": {}}', encoding="utf-8")
    (folder / "golden.jsonl").write_text("", encoding="utf-8")
    seal(folder, seed)
    answers = Recommender.load(folder).recommend(GOLDEN)
    cases = [{"request": request, "answer": answer} for request, answer in zip(GOLDEN, answers, strict=True)]
    (folder / "golden.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
    seal(folder, seed)
    return folder


def seal(folder: Path, seed: int = 0) -> None:
    """Write the manifest that fits the files as they are."""
    files = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    manifest = {
        "format": FORMAT,
        "model": "item_knn",
        "label": "item_knn",
        "dataset": "tiny",
        "dataset_hash": f"dataset-{seed}",
        "files": {name: hash_file(folder / name) for name in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
