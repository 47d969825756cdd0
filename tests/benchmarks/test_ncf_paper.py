"""The paper's files are read as they are, the one positive is ranked with ties against it, and held-out pairs choose."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_ncf import BY_HISTORY, BY_ID

from benchmarks import _record, ncf_paper
from benchmarks._ncf_networks import RankingTask
from benchmarks.ncf_paper import EvaluatedFit, hit_rate_and_ndcg, hold_out, read_task
from config.command import UserError

PAIRS = [(0, 0), (0, 1), (1, 2), (1, 5), (2, 3)]
NEGATIVES = ["(0,2)\t3\t4", "(1,0)\t1\t3", "(2,4)\t0\t1"]


def written(folder: Path, pairs=PAIRS, negatives=NEGATIVES) -> Path:
    """Three users' lines in the files of He et al. 2017."""
    pd.DataFrame(pairs, columns=["user", "item"], dtype="int32").to_parquet(folder / "train_pairs.parquet")
    (folder / "ml-1m.test.negative").write_text("\n".join(negatives) + "\n", encoding="utf-8")
    return folder


def random_task(users: int = 20, items: int = 30) -> RankingTask:
    generator = torch.Generator().manual_seed(0)
    taken = torch.rand(users, items, generator=generator) < 0.3
    taken[:, 0] = False
    taken[:, 1] = True  # everyone has something to hold out
    return RankingTask(taken, torch.full((users, 6), 29))


def test_three_lines_are_read_as_rows_one_above_the_items_numbers(tmp_path: Path) -> None:
    given = read_task(written(tmp_path))

    assert given.candidates.tolist() == [[3, 4, 5], [1, 2, 4], [5, 1, 2]]
    assert given.taken.shape == (3, 7)
    assert given.taken.nonzero().tolist() == [[user, item + 1] for user, item in PAIRS]


@pytest.mark.parametrize("name", ["train_pairs.parquet", "ml-1m.test.negative"])
def test_a_missing_file_is_named_in_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (written(tmp_path) / name).unlink()

    assert ncf_paper.main(["--data", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / name} does not exist; ")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"negatives": NEGATIVES[1:]}, "one line per user 0, 1, 2"),
        ({"pairs": [*PAIRS, (0, 2)]}, "pairs that are to be ranked"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_task(written(tmp_path, **changed))


def test_ties_and_undefined_scores_count_against_the_positive() -> None:
    nan = float("nan")
    scores = torch.tensor([[2.0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 2, 0], [nan, 1, 0], [1, nan, 0]])
    rank = np.array([1, 2, 3, 2, 3, 2])

    np.testing.assert_allclose(hit_rate_and_ndcg(scores)[:, 1], 1 / np.log2(rank + 1))


def test_metrics_of_one_positive() -> None:
    # Ranks 1, 3, 10, 11: log2(2) = 1, log2(4) = 2, log2(11), beyond the list.
    scores = torch.zeros(4, 12)
    for row, better in enumerate((0, 2, 9, 10)):
        scores[row] = torch.tensor([0.0] + [1.0] * better + [-1.0] * (11 - better))
    expected = [[1, 1], [1, 1 / 2], [1, 1 / np.log2(11)], [0, 0]]

    np.testing.assert_allclose(hit_rate_and_ndcg(scores), expected)


def test_the_held_out_pair_leaves_the_history_and_its_negatives_were_never_taken() -> None:
    given = random_task()
    held = hold_out(given, torch.Generator().manual_seed(1))
    positive, negatives = held.candidates[:, :1], held.candidates[:, 1:]

    assert held.candidates.shape == given.candidates.shape
    assert given.taken.gather(1, positive).all()
    assert not held.taken.gather(1, positive).any()
    assert (given.taken.sum(1) - held.taken.sum(1) == 1).all()
    assert not given.taken.gather(1, negatives).any()
    assert (negatives > 0).all()
    assert all(len(set(row)) == len(row) for row in held.candidates.tolist())


def test_what_is_held_out_does_not_follow_from_the_test_pairs() -> None:
    given = random_task()
    other = RankingTask(given.taken, given.candidates - 7)
    one, two = (hold_out(task, torch.Generator().manual_seed(1)) for task in (given, other))

    assert torch.equal(one.candidates, two.candidates)
    assert torch.equal(one.taken, two.taken)


def test_weights_are_the_best_on_the_held_out_pairs() -> None:
    right, wrong = torch.zeros(4, 20), torch.zeros(4, 20)
    right[:, 0], wrong[:, 0] = 0.5, -0.1
    scores = {"dot_product": wrong, "deep": right, "by_history": wrong}
    branches = {name: EvaluatedFit(held, held, 1, 1.0) for name, held in scores.items()}
    weights, whole = ncf_paper.best_sum(branches)

    assert weights["deep"] >= 0.3
    assert hit_rate_and_ndcg(whole.held_out_scores).mean() == 1
    assert whole.seconds == 3


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"BY_HISTORY": BY_HISTORY, "DOT_PRODUCT": BY_ID, "DEEP": BY_ID, "MAX_EPOCHS": 1}
    for name, value in small.items():
        monkeypatch.setattr(ncf_paper, name, value)
    monkeypatch.setattr(_record, "RESULTS", tmp_path)
    pairs = [(user, item) for user in range(3) for item in range(3, 6)]
    data = written(tmp_path, pairs, ["(0,2)\t0\t1", "(1,0)\t1\t2", "(2,1)\t0\t2"])

    assert ncf_paper.main(["--data", str(data)]) == 0
    result = json.loads((tmp_path / "ncf-ml-1m.json").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    for name in ("neural_cf", "dot_product", "by_history"):
        assert f"{result['models'][name]['metrics']['ndcg@10']['mean']:.4f}" in printed
    assert all(result[name] for name in ("command", "commit", "date", "files", "params"))
