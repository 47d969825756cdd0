"""A hybrid trusts each of its parts as far as the validation period says, request by request."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_features import checkerboard, recipe, train_settings

from features.encode import Batch
from features.sequences import batches
from training import stacking, validation
from training.models.base import Model
from training.models.hybrid import CIRCUMSTANCES, Hybrid, circumstances
from training.models.ranking import exclude
from training.stacking import Answers, choose, most_likely
from training.train import fit

FEATURES = checkerboard()
PARTS = {"popularity": recipe("popularity"), "item_knn": recipe("item_knn")}
RECIPE = {"name": "hybrid", "parts": PARTS, "l2": [0.001]}


def drawn(scores: torch.Tensor, about: torch.Tensor, right: torch.Tensor) -> Answers:
    """Cases whose true item is drawn from the softmax of the part that is right in that case."""
    generator = torch.Generator().manual_seed(1)
    shares = torch.softmax(scores[right, torch.arange(len(right))], dim=1)
    true = torch.zeros_like(shares).scatter_(1, torch.multinomial(shares, 1, generator=generator), 1)
    return Answers(scores, about, true, torch.zeros(shares.shape, dtype=torch.bool), torch.ones(len(right)))


def plain_loss(said: Answers, weights: torch.Tensor) -> torch.Tensor:
    """The loss as it is said, with nothing of its derivatives."""
    blended = said.blended(weights)
    each = torch.logsumexp(blended, dim=1, keepdim=True) - blended
    found = said.true.sum(dim=1)
    return ((each * said.true).sum(dim=1) / found.clamp(min=1))[found > 0].mean()


def first_batch(model: Model) -> Batch:
    """Cases of `next_item`, with the trends and as much history as this model reads."""
    every = validation.cases(FEATURES)["next_item"]
    trends = FEATURES.trend_log()
    return next(batches(FEATURES.log, every, trends, model.channels, every.time, 32, model.max_history))[1]


def test_the_part_that_is_right_is_trusted_where_it_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(2, 4000, 12, generator=generator)
    known = torch.arange(4000) % 2
    about = torch.zeros(4000, CIRCUMSTANCES)
    about[:, 0], about[:, 2] = 1, known
    start = torch.full((2, CIRCUMSTANCES), 0.0)

    weights = most_likely(start, [drawn(scores, about, known)], l2=0.0)  # part 1 is right where much is known

    unknown, well_known = weights[:, 0], weights[:, 0] + weights[:, 2]
    torch.testing.assert_close(unknown, torch.tensor([1.0, 0.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(well_known, torch.tensor([0.0, 1.0]), atol=0.08, rtol=0)


def test_the_weights_are_the_best_however_the_parts_are_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, about = torch.randn(3, 1500, 200, generator=generator), torch.rand(1500, CIRCUMSTANCES, generator=generator)
    said = drawn(scores, about, torch.arange(1500) % 3)
    said.scores = scores * torch.tensor([30.0, 10.0, 0.01])[:, None, None]
    start = torch.full((3, CIRCUMSTANCES), 0.1)

    weights = most_likely(start, [said], l2=0.001).double().requires_grad_()

    loss = plain_loss(said.double(), weights) + 0.001 * ((weights - start.double()) ** 2).sum()
    (slope,) = torch.autograd.grad(loss, weights)
    assert slope.abs().max() < 1e-5


def test_gradient_and_hessian_are_those_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, about = torch.randn(3, 40, 9, generator=generator), torch.rand(40, CIRCUMSTANCES, generator=generator)
    said = drawn(scores, about, torch.arange(40) % 3).double()
    said.true[:, 3] = 1  # more than one
    said.absent[::3, 5:] = True
    said.true[said.absent] = 0
    said.true[4] = 0  # none at all
    weights = torch.rand(3, CIRCUMSTANCES, generator=generator).double().requires_grad_()

    value, gradient, hessian = said.loss(weights)

    loss = plain_loss(said, weights)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, weights)[0])
    torch.testing.assert_close(
        hessian, torch.autograd.functional.hessian(lambda given: plain_loss(said, given), weights)
    )


def test_scores_are_the_weighted_sum_of_what_the_parts_say_alone() -> None:
    fitted = fit(RECIPE, FEATURES, train_settings(), seed=0)
    model = fitted.model
    assert isinstance(model, Hybrid)
    batch = first_batch(model)

    weights = circumstances(batch) @ model.weights.T
    parts = [fit(part, FEATURES, train_settings(), seed=0).model for part in PARTS.values()]
    alone = [part.scores(first_batch(part)) for part in parts]

    whole = sum(weights[:, [place]] * one for place, one in enumerate(alone))
    torch.testing.assert_close(model.scores(batch)[:, 1:], whole[:, 1:])


def test_true_items_that_no_part_ranks_high_do_not_turn_the_scores_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "CANDIDATES", 3)
    fitted = fit(RECIPE, FEATURES, train_settings(), seed=0)
    assert isinstance(fitted.model, Hybrid)
    batch = first_batch(fitted.model)

    weights = circumstances(batch) @ fitted.model.weights.T

    assert (weights[:, 1] > 0).all()  # item-kNN knows the checkerboard
    said = stacking.gather(fitted.model, FEATURES, validation.cases(FEATURES)["next_item"], 64)
    assert not said.true[said.absent].any(), "a true item that is no candidate has no score to be likely by"


def test_at_the_test_cut_the_weights_are_those_that_validation_gave() -> None:
    found = fit(RECIPE, FEATURES, train_settings(), seed=0)
    later = checkerboard()
    later.description["cut"] = "test"

    followed = fit(found.recipe, later, train_settings(), seed=0)

    assert isinstance(followed.model, Hybrid)
    np.testing.assert_allclose(followed.model.weights.numpy(), found.recipe["weights"], rtol=1e-6)
    assert followed.validation == {}


def test_the_candidates_give_the_ndcg_of_the_whole_catalogue() -> None:
    fitted = fit(RECIPE, FEATURES, train_settings(), seed=0)
    model = fitted.model
    assert isinstance(model, Hybrid)
    trends = FEATURES.trend_log()

    for every in validation.cases(FEATURES).values():
        said = stacking.gather(model, FEATURES, every, 64)
        whole = validation.ndcg(model, FEATURES, every, trends, 64)
        np.testing.assert_allclose(said.ndcg(model.weights).numpy(), whole, atol=1e-6)


def test_of_several_pulls_one_is_kept_in_the_recipe() -> None:
    found = fit(RECIPE | {"l2": [1e6, 0.001]}, FEATURES, train_settings(), seed=0)

    assert found.recipe["l2"] == 0.001  # equal shares of counts and of similarities serve nobody


def test_a_user_is_scored_with_weights_that_others_gave() -> None:
    scores = 2 * torch.randn(2, 4000, 12, generator=torch.Generator().manual_seed(0))
    user = np.arange(4000)
    about = torch.zeros(4000, CIRCUMSTANCES)
    about[:, 0] = 1
    said = drawn(scores, about, torch.from_numpy(user % 2))  # part 0 is right for even users, part 1 for odd ones

    _, (for_even, for_odd) = choose(torch.zeros(2, CIRCUMSTANCES), {"next_item": said}, {"next_item": user}, [0.0])

    torch.testing.assert_close(for_even[:, 0], torch.tensor([0.0, 1.0]), atol=0.08, rtol=0)
    torch.testing.assert_close(for_odd[:, 0], torch.tensor([1.0, 0.0]), atol=0.08, rtol=0)


def test_only_what_the_first_part_retrieves_is_ranked_by_the_sum() -> None:
    fitted = fit(RECIPE | {"retrieve": 3}, FEATURES, train_settings(), seed=0)
    whole = fit(RECIPE, FEATURES, train_settings(), seed=0)
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
        asked = []
        scored = second.scores_of
        monkeypatch.setattr(second, "scores", lambda batch: pytest.fail("the second part scored the whole catalogue"))
        monkeypatch.setattr(second, "scores_of", lambda batch, rows: (asked.append(rows.shape), scored(batch, rows))[1])
        again = fitted.model.scores(batch)

    weights = circumstances(batch) @ fitted.model.weights.T
    rows = fitted.model.retrieved(parts[0], batch)
    summed = torch.einsum("pbn,bp->bn", parts, weights).gather(1, rows)
    assert asked == [(len(batch), 3)]
    assert torch.equal(scores, again)
    torch.testing.assert_close(scores.gather(1, rows), summed, rtol=1e-4, atol=1e-4)


def test_the_weights_of_a_reranker_come_from_what_it_ranks() -> None:
    fitted = fit(RECIPE | {"retrieve": 3}, FEATURES, train_settings(), seed=0)
    assert isinstance(fitted.model, Hybrid)
    trends = FEATURES.trend_log()

    for every in validation.cases(FEATURES).values():
        said = stacking.gather(fitted.model, FEATURES, every, 64)
        assert said.scores.shape[2] <= 3
        whole = validation.ndcg(fitted.model, FEATURES, every, trends, 64)
        assert (whole >= said.ndcg(fitted.model.weights).numpy() - 1e-6).all(), "what lies below may add, not take"
