"""No item predicts itself, the test pairs have no influence, and what can be learned is learned."""

from __future__ import annotations

import pytest
import torch
from small_ncf import BY_HISTORY, BY_ID
from torch.nn import functional

from benchmarks import ncf_paper
from benchmarks._ncf_networks import DeepBranch, DotProduct, Network, RankingTask, SetNeuralCF, split_sets
from benchmarks.ncf_paper import fit_and_score, hit_rate_and_ndcg

ITEMS = 40
NETWORKS = [(SetNeuralCF, BY_HISTORY), (DotProduct, BY_ID), (DeepBranch, BY_ID)]


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
    task = checkerboard()
    network = SetNeuralCF(task, BY_HISTORY, 0)
    seen: dict[str, torch.Tensor] = {}
    users_of, match_pairs = network.users_of, network.match_pairs

    def spied_users(history):
        seen["history"] = history
        return users_of(history)

    def spied_pairs(user, row, candidates):
        seen.update(row=row, positive=candidates[:, 0])
        return match_pairs(user, row, candidates)

    monkeypatch.setattr(network, "users_of", spied_users)
    monkeypatch.setattr(network, "match_pairs", spied_pairs)
    network.loss(torch.arange(60), task.taken, torch.Generator().manual_seed(0))

    assert len(seen["positive"])
    assert not seen["history"][seen["row"], seen["positive"]].any()
    assert task.taken[seen["row"], seen["positive"]].all()


def test_an_empty_set_has_scores() -> None:
    network = SetNeuralCF(checkerboard(), BY_HISTORY, 0).eval()
    scores = network.score(torch.arange(2), torch.zeros(2, ITEMS + 1, dtype=torch.bool))

    assert scores.shape == (2, ITEMS + 1)
    assert scores.isfinite().all()


@pytest.mark.parametrize(("kind", "configuration"), NETWORKS)
def test_a_checkerboard_is_learned(kind: type[Network], configuration: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncf_paper, "MAX_EPOCHS", 12)
    fitted = fit_and_score(kind, checkerboard(), configuration | {"patience": 12})

    assert hit_rate_and_ndcg(fitted.scores)[:, 1].mean() > 0.9


@pytest.mark.parametrize(("kind", "configuration"), NETWORKS)
def test_the_test_pairs_have_no_influence(
    kind: type[Network], configuration: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ncf_paper, "MAX_EPOCHS", 2)
    task = checkerboard()
    flipped = RankingTask(task.taken, torch.flip(task.candidates, dims=[1]))
    one, two = (fit_and_score(kind, each, configuration) for each in (task, flipped))

    assert torch.equal(one.scores, torch.flip(two.scores, dims=[1]))
    assert torch.equal(one.held_out_scores, two.held_out_scores)
    assert one.best_epoch == two.best_epoch


class Scores:
    """A network that gives every item the same score, except for the positives in its second epoch."""

    def __init__(self, task: RankingTask, epoch: int) -> None:
        self.scores = torch.zeros(task.taken.shape)
        self.scores[torch.arange(len(task.taken)), task.candidates[:, 0]] = 1.0 if epoch == 2 else -1.0

    def score(self, rows: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        return self.scores[rows]


def test_the_final_fit_runs_the_best_epochs_on_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def train(kind, task: RankingTask, configuration: dict, seed: int, epochs: int):
        runs.append((int(task.taken.sum()), epochs))
        yield from (Scores(task, epoch) for epoch in range(1, epochs + 1))

    monkeypatch.setattr(ncf_paper, "train", train)
    monkeypatch.setattr(ncf_paper, "MAX_EPOCHS", 9)
    fitted = fit_and_score(DotProduct, checkerboard(), {"patience": 3})

    assert runs == [(600 - 60, 9), (600, 2)]
    assert fitted.best_epoch == 2


def test_the_loss_is_the_expectation_over_draws_of_negatives() -> None:
    torch.manual_seed(0)
    task, rows, drawn = checkerboard(), torch.arange(20), BY_ID["num_negatives"]
    branch = DotProduct(task, BY_ID | {"l2": 0.0}, 0)
    exact = branch.loss(rows, task.taken[rows], torch.Generator())

    scores = branch.score(rows, task.taken[rows])
    row, item = task.taken[rows].nonzero().T
    negatives = torch.randint(1, ITEMS + 1, (400, len(row), drawn))
    of_negatives = functional.softplus(scores[row[:, None], negatives]).sum(dim=2)
    sampled = (functional.softplus(-scores[row, item]) + of_negatives).mean()

    torch.testing.assert_close(exact, sampled, rtol=2e-3, atol=0)


def test_a_deep_branch_does_not_predict_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    task, rows = checkerboard(), torch.arange(20)
    branch = DeepBranch(task, BY_ID, 0)
    seen: dict[str, torch.Tensor] = {}
    score = branch.score

    def spied_score(rows, history):
        seen.update(history=history, scores=score(rows, history))
        seen["scores"].retain_grad()
        return seen["scores"]

    monkeypatch.setattr(branch, "score", spied_score)
    branch.loss(rows, task.taken[rows], torch.Generator().manual_seed(0)).backward()
    predicted = seen["scores"].grad != 0

    assert seen["history"].any()
    assert not predicted[seen["history"].bool()].any()
    assert predicted[task.taken[rows] & ~seen["history"].bool()].all()
