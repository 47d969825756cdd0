"""The large catalog that is measured is one that an export wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks import _synthetic
from config import params
from config.paths import ROOT
from serving.worker.recommender import Recommender
from training.threads import one_thread

TRAINED, ITEMS = 4000, 6000


def test_a_grown_catalog_is_exported_with_its_index_and_answers(tmp_path: Path) -> None:
    settings = params.load(ROOT / "params.yaml")
    index = settings.serve.index.model_copy(update={"kind": "faiss", "requests": 64})
    settings = settings.model_copy(update={"serve": settings.serve.model_copy(update={"index": index})})
    with one_thread():  # two would wait for each other wherever the machine has other work
        features, fitted = _synthetic.train(TRAINED, 60, steps=5, width=16)
        manifest = _synthetic.export_grown(tmp_path, features, fitted, ITEMS, settings)

    assert manifest["index"]["recall@20"] > 0.9
    recommender = Recommender.load(tmp_path / "artifact")
    assert (len(recommender.vocabulary) - 1, recommender.retrieval is not None) == (ITEMS, True)
    history = [
        {"item_id": recommender.vocabulary.id(item), "event_time": "2026-01-01"} for item in features.log.items[:5]
    ]
    (answer,) = recommender.recommend([{"history": history, "k": 20}])
    assert (answer["source"], len(answer["items"])) == ("personalized", 20)
    assert any(int(item["item_id"][1:]) >= TRAINED for item in answer["items"])  # those between are recommended as well


def test_given_trends_are_those_of_every_moment() -> None:
    made = _synthetic.features(_synthetic.Size(users=4, items=8, events=3), params.load(ROOT / "params.yaml"))
    counts = np.arange(18.0).reshape(9, 2)
    grown = _synthetic.GrownFeatures(**vars(made), counts=counts)

    found = grown.trend_log().at(made.cut_us - np.array([0, 10**9]), ["all", "window_1d"])

    assert (found == counts).all()
    assert found.shape == (2, 9, 2)


def test_new_items_lie_between_the_trained_ones_and_keep_them() -> None:
    trained = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))

    grown = _synthetic.grown_rows(trained, 4, 100)

    assert grown.shape == (100, 6)
    assert torch.equal(grown[:40], trained)
    assert (grown[40:, 4:] >= trained[:, 4:].amin(dim=0)).all()
    assert torch.equal(_synthetic.grown_rows(trained, 4, 30), trained[:30])
