"""A hybrid scores by its parts, and is fitted on what they score on the validation period."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_features import checkerboard, recipe, train_settings

from features.encode import Batch
from features.sequences import batches
from training import stacking, validation
from training.fitting import fit
from training.models.base import Model
from training.models.hybrid import Hybrid, meta_features
from training.models.ranking import exclude

FEATURES = checkerboard()
PARTS = {"popularity": recipe("popularity"), "item_knn": recipe("item_knn")}
HYBRID = {"name": "hybrid", "parts": PARTS, "retrieve": None, "l2": [0.001]}


def first_batch(model: Model) -> Batch:
    """Cases of `next_item`, with the trends and as much history as this model reads."""
    cases = validation.cases(FEATURES)["next_item"]
    trends = FEATURES.trend_log()
    return next(batches(FEATURES.log, cases, trends, model.channels, cases.time, 32, model.max_history))[1]


def test_scores_are_the_weighted_sum_of_the_parts_scores() -> None:
    fitted = fit(HYBRID, FEATURES, train_settings(), seed=0)
    model = fitted.model
    assert isinstance(model, Hybrid)
    batch = first_batch(model)

    weights = meta_features(batch) @ model.weights.T
    parts = [fit(part, FEATURES, train_settings(), seed=0).model for part in PARTS.values()]
    alone = [part.scores(first_batch(part)) for part in parts]

    whole = sum(weights[:, [place]] * one for place, one in enumerate(alone))
    torch.testing.assert_close(model.scores(batch)[:, 1:], whole[:, 1:])


def test_true_items_that_no_part_ranks_high_do_not_turn_the_scores_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "CANDIDATES", 3)
    fitted = fit(HYBRID, FEATURES, train_settings(), seed=0)
    assert isinstance(fitted.model, Hybrid)
    batch = first_batch(fitted.model)

    weights = meta_features(batch) @ fitted.model.weights.T

    assert (weights[:, 1] > 0).all()  # item-kNN knows the checkerboard
    data = stacking.collect_scores(fitted.model, FEATURES, validation.cases(FEATURES)["next_item"], 64)
    assert not data.true[data.absent].any(), "a true item that is no candidate has no score to be likely by"


def test_the_test_cut_uses_the_weights_from_validation() -> None:
    found = fit(HYBRID, FEATURES, train_settings(), seed=0)
    later = checkerboard()
    later.description["cut"] = "test"

    followed = fit(found.hyperparameters, later, train_settings(), seed=0)

    assert isinstance(followed.model, Hybrid)
    np.testing.assert_allclose(followed.model.weights.numpy(), found.hyperparameters["weights"], rtol=1e-6)
    assert followed.validation == {}


def test_the_candidates_give_the_ndcg_of_the_whole_catalog() -> None:
    fitted = fit(HYBRID, FEATURES, train_settings(), seed=0)
    model = fitted.model
    assert isinstance(model, Hybrid)
    trends = FEATURES.trend_log()

    for cases in validation.cases(FEATURES).values():
        data = stacking.collect_scores(model, FEATURES, cases, 64)
        whole = validation.ndcg(model, FEATURES, cases, trends, 64)
        np.testing.assert_allclose(data.ndcg(model.weights).numpy(), whole, atol=1e-6)


def test_the_best_l2_is_kept_in_the_hyperparameters() -> None:
    found = fit(HYBRID | {"l2": [1e6, 0.001]}, FEATURES, train_settings(), seed=0)

    assert found.hyperparameters["l2"] == 0.001  # equal shares of counts and of similarities serve nobody


def test_only_what_the_first_part_retrieves_is_ranked_by_the_sum() -> None:
    fitted = fit(HYBRID | {"retrieve": 3}, FEATURES, train_settings(), seed=0)
    whole = fit(HYBRID, FEATURES, train_settings(), seed=0)
    assert isinstance(fitted.model, Hybrid)
    batch = first_batch(fitted.model)
    whole.model.set_weights(fitted.model.weights.tolist())  # type: ignore[operator]

    first = exclude(fitted.model.part_scores(batch)[0], batch.seen)
    ranked = exclude(fitted.model.scores(batch), batch.seen).argsort(dim=1, descending=True)
    summed = exclude(whole.model.scores(batch), batch.seen)

    retrieved = first.topk(3, dim=1).indices
    assert torch.equal(ranked[:, :3].sort().values, retrieved.sort().values)
    assert (summed.gather(1, ranked[:, :3]).diff(dim=1) <= 0).all(), "of these, the sum orders"
    assert (first.gather(1, ranked[:, 3:]).nan_to_num(neginf=-1e9).diff(dim=1) <= 1e-3).all(), (
        "of those, the first part"
    )


def test_what_was_not_retrieved_is_scored_by_the_first_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = fit(recipe("reranker", retrieve=3), FEATURES, train_settings(), seed=0)
    assert isinstance(fitted.model, Hybrid)
    batch = first_batch(fitted.model)
    with torch.inference_mode():
        parts = fitted.model.part_scores(batch)
        scores = fitted.model.scores(batch)
        second = fitted.model.models()[1]
        shapes = []
        scored = second.scores_of
        monkeypatch.setattr(second, "scores", lambda batch: pytest.fail("the second part scored the whole catalog"))
        monkeypatch.setattr(
            second, "scores_of", lambda batch, rows: (shapes.append(rows.shape), scored(batch, rows))[1]
        )
        again = fitted.model.scores(batch)

    weights = meta_features(batch) @ fitted.model.weights.T
    rows = fitted.model.retrieved(parts[0], batch)
    summed = torch.einsum("pbn,bp->bn", parts, weights).gather(1, rows)
    assert shapes == [(len(batch), 3)]
    assert torch.equal(scores, again)
    torch.testing.assert_close(scores.gather(1, rows), summed, rtol=1e-4, atol=1e-4)


def test_the_weights_of_a_reranker_come_from_what_it_ranks() -> None:
    fitted = fit(HYBRID | {"retrieve": 3}, FEATURES, train_settings(), seed=0)
    assert isinstance(fitted.model, Hybrid)
    trends = FEATURES.trend_log()

    for cases in validation.cases(FEATURES).values():
        data = stacking.collect_scores(fitted.model, FEATURES, cases, 64)
        assert data.scores.shape[2] <= 3
        whole = validation.ndcg(fitted.model, FEATURES, cases, trends, 64)
        assert (whole >= data.ndcg(fitted.model.weights).numpy() - 1e-6).all(), "what lies below may add, not take"
