"""The large catalog that is measured is one that an export wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
        trained = _synthetic.train(TRAINED, 60, steps=5, width=16)
        manifest = _synthetic.export_grown(tmp_path, trained, ITEMS, settings)

    assert manifest["index"]["recall@20"] > 0.9
    recommender = Recommender.load(tmp_path / "artifact")
    assert (len(recommender.vocabulary) - 1, recommender.retrieval is not None) == (ITEMS, True)
    log = trained.features.log
    history = [{"item_id": recommender.vocabulary.id(item), "event_time": "2026-01-01"} for item in log.items[:5]]
    (answer,) = recommender.recommend([{"history": history, "k": 20}])
    assert (answer["source"], len(answer["items"])) == ("personalized", 20)
    assert any(int(item["item_id"][1:]) >= TRAINED for item in answer["items"])  # those between are recommended as well


def test_given_trends_are_those_of_every_moment() -> None:
    with one_thread():
        trained = _synthetic.train(TRAINED, 60, steps=1, width=16)
        made = _synthetic.grow(trained, ITEMS)
    features = _synthetic.GrownFeatures(**vars(trained.features), counts=made.trends.values)

    found = features.trend_log().at(features.cut_us - np.array([0, 10**9]), made.trends.channels)

    assert found.shape == (2, ITEMS + 1, len(made.trends.channels))
    assert (found == made.trends.values).all()
    assert (found[:, 1:] > 0).any()
