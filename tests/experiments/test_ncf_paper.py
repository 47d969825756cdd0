"""Neural CF on sets: nothing foretells itself, the test pairs stay unseen, and what can be learnt is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from paper_files import written
from torch.nn import functional

from experiments import ncf_paper
from experiments.papers import networks
from experiments.papers.networks import SetNeuralCF
from experiments.papers.protocol import Fit, Given, Training, fit, metrics, ranks
from training.negative_sampling import NegativeSampler

RECIPE = ncf_paper.BY_HISTORY | {
    "embedding_dim": 16,
    "hidden_dim": 8,
    "num_negatives": 60,
    "batch_users": 16,
    "learning_rate": 0.01,
}
BY_ID = ncf_paper.DEEP | {"embedding_dim": 16, "hidden_dim": 8, "batch_users": 30, "learning_rate": 0.05}
BRANCHES = [networks.Product, networks.Deep]
ITEMS = 40

WAYS = {
    "by_history": networks.train_set_ncf(RECIPE, 0),
    "dot_product": networks.train_neumf(networks.Product, BY_ID, 0),
    "deep": networks.train_neumf(networks.Deep, BY_ID, 0),
}


def checkerboard(users: int = 60, per_user: int = 10) -> Given:
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
    return Given(taken, candidates)


def test_no_item_is_read_and_to_be_foretold_at_once() -> None:
    taken = checkerboard().taken
    read, told = networks.split(taken, 0.5, torch.Generator().manual_seed(0))

    assert not (read & told).any()
    assert torch.equal(read | told, taken)
    assert told.any()


def test_the_positive_is_never_in_its_own_history(monkeypatch: pytest.MonkeyPatch) -> None:
    given = checkerboard()
    model = SetNeuralCF(RECIPE, ITEMS + 1)
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
    networks.set_ncf_loss(model, given.taken, sampler, RECIPE, torch.Generator().manual_seed(0))

    assert len(seen["positive"])
    assert not seen["read"][seen["question"], seen["positive"]].any()
    assert given.taken[seen["question"], seen["positive"]].all()


def test_an_empty_set_has_scores() -> None:
    model = SetNeuralCF(RECIPE, ITEMS + 1).eval()
    scores = model.match(model.users_of(torch.zeros(2, ITEMS + 1, dtype=torch.bool)))

    assert scores.shape == (2, ITEMS + 1)
    assert scores.isfinite().all()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_checkerboard_is_learnt(way: Training) -> None:
    fitted = fit(way, checkerboard(), 0, 12, patience=12)

    assert metrics(ranks(fitted.scores))[:, 1].mean() > 0.9
    assert fitted.held_out == metrics(ranks(fitted.held_scores)).mean(axis=0).tolist()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_test_pairs_decide_nothing(way: Training) -> None:
    given = checkerboard()
    other = Given(given.taken, torch.flip(given.candidates, dims=[1]))
    one, two = (fit(way, task, 0, 2, patience=2) for task in (given, other))

    assert torch.equal(one.scores, torch.flip(two.scores, dims=[1]))
    assert (one.held_out, one.best_epoch) == (two.held_out, two.best_epoch)


def test_the_last_fit_takes_the_best_epochs_on_all_pairs() -> None:
    asked = []

    def way(task: Given, epochs: int):
        asked.append((int(task.taken.sum()), epochs))
        for epoch in range(1, epochs + 1):
            scores = torch.zeros(task.candidates.shape)
            scores[:, 0] = 1.0 if epoch == 2 else -1.0
            yield lambda _, scores=scores: scores

    fitted = fit(way, checkerboard(), 0, 9, patience=3)

    assert asked == [(600 - 60, 9), (600, 2)]
    assert fitted.best_epoch == 2


def test_weights_are_those_that_do_best_on_the_held_out_pairs() -> None:
    right, wrong = torch.zeros(4, 20), torch.zeros(4, 20)
    right[:, 0], wrong[:, 0] = 0.5, -0.1
    scores = {"dot_product": wrong, "deep": right, "by_history": wrong}
    branches = {name: Fit(held, held, [0.0, 0.0], 1, 1.0) for name, held in scores.items()}
    weights, whole = ncf_paper.summed(branches)

    assert weights["deep"] >= 0.3
    assert whole.held_out == [1.0, 1.0]
    assert whole.seconds == 3


@pytest.mark.parametrize("kind", BRANCHES)
def test_candidates_score_as_they_do_among_all_items(kind: type[networks.Product]) -> None:
    given = checkerboard()
    branch = kind(given, BY_ID)
    torch.nn.init.normal_(branch.item_bias)
    if isinstance(branch, networks.Deep):
        for layer in branch.tail:
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight)
    users = branch.user(torch.arange(60), given.taken.float())

    torch.testing.assert_close(
        branch.match_own(users, given.candidates), branch.match(users).gather(1, given.candidates)
    )


def test_the_loss_is_the_mean_over_draws_of_negatives() -> None:
    torch.manual_seed(0)
    given = checkerboard()
    branch, users, drawn = networks.Product(given, BY_ID), torch.arange(20), BY_ID["num_negatives"]
    counts = given.taken.sum(dim=0)
    exact = networks.neumf_loss(branch, given.taken, counts, users, BY_ID | {"l2": 0.0}, torch.Generator())

    scores = branch.match(branch.user(users, given.taken[users].float()))
    row, item = given.taken[users].nonzero().T
    negatives = torch.randint(1, ITEMS + 1, (400, len(row), drawn))
    of_negatives = functional.softplus(scores[row[:, None], negatives]).sum(dim=2)
    sampled = (functional.softplus(-scores[row, item]) + of_negatives).mean()

    torch.testing.assert_close(exact, sampled, rtol=2e-3, atol=0)


def test_what_a_deep_branch_reads_it_is_not_asked_of(monkeypatch: pytest.MonkeyPatch) -> None:
    given = checkerboard()
    branch, users = networks.Deep(given, BY_ID), torch.arange(20)
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
    networks.neumf_loss(branch, given.taken, counts, users, BY_ID, torch.Generator().manual_seed(0)).backward()
    asked = seen["scores"].grad != 0

    assert seen["read"].any()
    assert not asked[seen["read"].bool()].any()
    assert asked[given.taken[users] & ~seen["read"].bool()].all()


def test_the_verb_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ncf_paper, "BY_HISTORY", RECIPE)
    monkeypatch.setattr(ncf_paper, "PRODUCT", BY_ID)
    monkeypatch.setattr(ncf_paper, "DEEP", BY_ID)
    pairs = [(user, item) for user in range(3) for item in range(3, 6)]
    negatives = ["(0,2)\t0\t1", "(1,0)\t1\t2", "(2,1)\t0\t2"]
    positives = ["0\t2\t5\t9", "1\t0\t3\t9", "2\t1\t4\t9"]
    data = written(tmp_path, pairs, positives, negatives)

    assert ncf_paper.main(["--data", str(data), "--epochs", "1", "--results", str(tmp_path / "r")]) == 0
    result = json.loads((tmp_path / "r" / "ncf-ml-1m.json").read_text())
    printed = capsys.readouterr().out
    for name in ("neural_cf", "dot_product", "by_history"):
        assert f"{result['models'][name]['metrics']['ndcg@10']['mean']:.4f}" in printed
    for name in ("command", "commit", "date", "dataset_hash", "params", "published"):
        assert result[name], name
    assert "0.730" in printed
    assert "0.452" in printed


def test_a_folder_without_the_files_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ncf_paper.main(["--data", str(tmp_path)]) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
