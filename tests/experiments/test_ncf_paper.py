"""Neural CF on sets: nothing foretells itself, the test pairs stay unseen, and what can be learnt is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import ncf_paper
from experiments.papers import ncf_fit
from experiments.papers.given_negatives import Given, metrics, ranks
from experiments.papers.set_history import SetDotProduct, SetNeuralCF
from tests.experiments.paper_files import written
from training.negatives import NegativeSampler

RECIPE = ncf_paper.RECIPE | {"width": 16, "hidden": 8, "negatives": 60, "batch_users": 16, "learning_rate": 0.01}
ITEMS = 40


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
    read, told = ncf_fit.split(taken, 0.5, torch.Generator().manual_seed(0))

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
    ncf_fit.loss(model, given.taken, sampler, RECIPE, torch.Generator().manual_seed(0))

    assert len(seen["positive"])
    assert not seen["read"][seen["question"], seen["positive"]].any()
    assert given.taken[seen["question"], seen["positive"]].all()


def test_fitting_does_not_look_at_the_test_pairs() -> None:
    given = checkerboard()
    other = Given(given.taken, torch.flip(given.candidates, dims=[1]))
    one, two = (ncf_fit.fit(SetNeuralCF, task, RECIPE, 0, 2).model.state_dict() for task in (given, other))

    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_empty_set_has_scores() -> None:
    model = SetNeuralCF(RECIPE, ITEMS + 1).eval()
    scores = model.match(model.users_of(torch.zeros(2, ITEMS + 1, dtype=torch.bool)))

    assert scores.shape == (2, ITEMS + 1)
    assert scores.isfinite().all()


def test_the_dot_product_is_the_network_without_its_mlp() -> None:
    torch.manual_seed(0)
    full, flat = SetNeuralCF(RECIPE, ITEMS + 1).eval(), SetDotProduct(RECIPE, ITEMS + 1).eval()
    flat.load_state_dict(full.state_dict())
    torch.nn.init.zeros_(full.tail[-1].weight)
    torch.nn.init.zeros_(full.tail[-1].bias)
    user = full.users_of(checkerboard().taken)
    question, candidates = torch.tensor([3, 0]), torch.tensor([[1, 2], [7, 9]])

    torch.testing.assert_close(flat.match(user), full.match(user))
    torch.testing.assert_close(
        flat.match_pairs(user, question, candidates), full.match_pairs(user, question, candidates)
    )


@pytest.mark.parametrize("kind", [SetNeuralCF, SetDotProduct])
def test_a_checkerboard_is_learnt(kind: type[SetNeuralCF]) -> None:
    given = checkerboard()
    fitted = ncf_fit.fit(kind, given, RECIPE, 0, 40)

    assert metrics(ranks(ncf_fit.score(fitted.model, given)))[:, 1].mean() > 0.9


def test_the_verb_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ncf_paper, "RECIPE", RECIPE)
    pairs = [(user, item) for user in range(3) for item in range(3, 6)]
    negatives = ["(0,2)\t0\t1", "(1,0)\t1\t2", "(2,1)\t0\t2"]
    positives = ["0\t2\t5\t9", "1\t0\t3\t9", "2\t1\t4\t9"]
    data = written(tmp_path, pairs, positives, negatives)

    assert ncf_paper.main(["--data", str(data), "--epochs", "1", "--results", str(tmp_path / "r")]) == 0
    result = json.loads((tmp_path / "r" / "ncf-ml-1m.json").read_text())
    printed = capsys.readouterr().out
    for name in ("neural_cf", "dot_product"):
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
