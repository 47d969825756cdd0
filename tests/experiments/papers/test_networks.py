"""No item predicts itself, the test pairs have no influence, and what can be learned is learned."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from experiments import ncf_paper
from experiments.papers.networks import (
    DeepBranch,
    DotProduct,
    SetNeuralCF,
    branch_loss,
    branch_training,
    set_ncf_loss,
    set_ncf_training,
    split_sets,
)
from experiments.papers.protocol import RankingTask, Training, fit_and_score, hit_rate_and_ndcg, positive_ranks
from training.losses import NegativeSampler

BY_HISTORY = ncf_paper.BY_HISTORY | {
    "embedding_dim": 16,
    "hidden_dim": 8,
    "num_negatives": 60,
    "batch_size": 16,
    "learning_rate": 0.01,
}
BY_ID = ncf_paper.DEEP | {"embedding_dim": 16, "hidden_dim": 8, "batch_size": 30, "learning_rate": 0.05}
BRANCHES = [DotProduct, DeepBranch]
ITEMS = 40

WAYS = {
    "by_history": set_ncf_training(BY_HISTORY, 0),
    "dot_product": branch_training(DotProduct, BY_ID, 0),
    "deep": branch_training(DeepBranch, BY_ID, 0),
}


def checkerboard(users: int = 60, per_user: int = 10) -> RankingTask:
    """Users of even number take even rows, others odd ones; the negatives are of the other parity."""
    generator = torch.Generator().manual_seed(0)
    taken = torch.zeros(users, ITEMS + 1, dtype=torch.bool)
    candidates = torch.zeros(users, 10, dtype=torch.int64)
    for user in range(users):
        own = torch.arange(1 + user % 2, ITEMS + 1, 2)
        own = own[torch.randperm(len(own), generator=generator)]
        taken[user, own[:per_user]] = True
        other = torch.arange(2 - user % 2, ITEMS + 1, 2)[:9]
        candidates[user] = torch.cat([own[per_user : per_user + 1], other])
    return RankingTask(taken, candidates)


def test_no_item_is_both_read_and_predicted() -> None:
    taken = checkerboard().taken
    history, targets = split_sets(taken, 0.5, torch.Generator().manual_seed(0))

    assert not (history & targets).any()
    assert torch.equal(history | targets, taken)
    assert targets.any()


def test_the_positive_is_never_in_its_own_history(monkeypatch: pytest.MonkeyPatch) -> None:
    given = checkerboard()
    model = SetNeuralCF(BY_HISTORY, ITEMS + 1)
    seen: dict[str, torch.Tensor] = {}
    users_of, match_pairs = model.users_of, model.match_pairs

    def spied_users(read):
        seen["read"] = read
        return users_of(read)

    def spied_pairs(user, question, candidates):
        seen.update(question=question, positive=candidates[:, 0])
        return match_pairs(user, question, candidates)

    monkeypatch.setattr(model, "users_of", spied_users)
    monkeypatch.setattr(model, "match_pairs", spied_pairs)
    sampler = NegativeSampler(given.taken.sum(0).numpy(), 0.0, 0)
    set_ncf_loss(model, given.taken, sampler, BY_HISTORY, torch.Generator().manual_seed(0))

    assert len(seen["positive"])
    assert not seen["read"][seen["question"], seen["positive"]].any()
    assert given.taken[seen["question"], seen["positive"]].all()


def test_an_empty_set_has_scores() -> None:
    model = SetNeuralCF(BY_HISTORY, ITEMS + 1).eval()
    scores = model.match(model.users_of(torch.zeros(2, ITEMS + 1, dtype=torch.bool)))

    assert scores.shape == (2, ITEMS + 1)
    assert scores.isfinite().all()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_checkerboard_is_learned(way: Training) -> None:
    fitted = fit_and_score(way, checkerboard(), 0, 12, patience=12)

    assert hit_rate_and_ndcg(positive_ranks(fitted.scores))[:, 1].mean() > 0.9
    assert fitted.held_out == hit_rate_and_ndcg(positive_ranks(fitted.held_out_scores)).mean(axis=0).tolist()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_test_pairs_have_no_influence(way: Training) -> None:
    given = checkerboard()
    other = RankingTask(given.taken, torch.flip(given.candidates, dims=[1]))
    one, two = (fit_and_score(way, task, 0, 2, patience=2) for task in (given, other))

    assert torch.equal(one.scores, torch.flip(two.scores, dims=[1]))
    assert (one.held_out, one.best_epoch) == (two.held_out, two.best_epoch)


def test_the_final_fit_runs_the_best_epochs_on_all_pairs() -> None:
    asked = []

    def way(task: RankingTask, epochs: int):
        asked.append((int(task.taken.sum()), epochs))
        for epoch in range(1, epochs + 1):
            scores = torch.zeros(task.candidates.shape)
            scores[:, 0] = 1.0 if epoch == 2 else -1.0
            yield lambda _, scores=scores: scores

    fitted = fit_and_score(way, checkerboard(), 0, 9, patience=3)

    assert asked == [(600 - 60, 9), (600, 2)]
    assert fitted.best_epoch == 2


@pytest.mark.parametrize("kind", BRANCHES)
def test_candidates_score_as_they_do_among_all_items(kind: type[DotProduct]) -> None:
    given = checkerboard()
    branch = kind(given, BY_ID)
    torch.nn.init.normal_(branch.item_bias)
    if isinstance(branch, DeepBranch):
        for layer in branch.tail:
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight)
    users = branch.user(torch.arange(60), given.taken.float())

    torch.testing.assert_close(
        branch.match_own(users, given.candidates), branch.match(users).gather(1, given.candidates)
    )


def test_the_loss_is_the_expectation_over_draws_of_negatives() -> None:
    torch.manual_seed(0)
    given = checkerboard()
    branch, users, drawn = DotProduct(given, BY_ID), torch.arange(20), BY_ID["num_negatives"]
    counts = given.taken.sum(dim=0)
    exact = branch_loss(branch, given.taken, counts, users, BY_ID | {"l2": 0.0}, torch.Generator())

    scores = branch.match(branch.user(users, given.taken[users].float()))
    row, item = given.taken[users].nonzero().T
    negatives = torch.randint(1, ITEMS + 1, (400, len(row), drawn))
    of_negatives = functional.softplus(scores[row[:, None], negatives]).sum(dim=2)
    sampled = (functional.softplus(-scores[row, item]) + of_negatives).mean()

    torch.testing.assert_close(exact, sampled, rtol=2e-3, atol=0)


def test_a_deep_branch_does_not_predict_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    given = checkerboard()
    branch, users = DeepBranch(given, BY_ID), torch.arange(20)
    seen: dict[str, torch.Tensor] = {}
    match, user = branch.match, branch.user

    def spied_user(rows, read):
        seen["read"] = read
        return user(rows, read)

    def spied_match(users):
        seen["scores"] = match(users)
        seen["scores"].retain_grad()
        return seen["scores"]

    monkeypatch.setattr(branch, "user", spied_user)
    monkeypatch.setattr(branch, "match", spied_match)
    counts = given.taken.sum(dim=0)
    branch_loss(branch, given.taken, counts, users, BY_ID, torch.Generator().manual_seed(0)).backward()
    asked = seen["scores"].grad != 0

    assert seen["read"].any()
    assert not asked[seen["read"].bool()].any()
    assert asked[given.taken[users] & ~seen["read"].bool()].all()
