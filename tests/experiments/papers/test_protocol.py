"""The paper's files are read as they are, and the one positive is ranked with ties against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from paper_files import NEGATIVES, PAIRS, POSITIVES, written

from config.command import UserError
from experiments.papers.protocol import RankingTask, hit_rate_and_ndcg, hold_out, positive_ranks, read_task


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


@pytest.mark.parametrize("name", ["train_pairs.parquet", "ml-1m.test.rating", "ml-1m.test.negative"])
def test_a_missing_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    (written(tmp_path) / name).unlink()

    with pytest.raises(UserError, match=rf"^.*{name} does not exist; .*$"):
        read_task(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positives": POSITIVES[1:]}, "one line per user 0, 1, 2"),
        ({"negatives": [NEGATIVES[0], "(1,2)\t1\t3", NEGATIVES[2]]}, "do not start with the pairs"),
        ({"negatives": [NEGATIVES[0], "(1,0)\t1", NEGATIVES[2]]}, "the same number of integers"),
        ({"positives": ["0\tfive\t5\t9", *POSITIVES[1:]]}, "the same number of integers"),
        ({"pairs": [*PAIRS, (3, 1)]}, "not among the 3"),
        ({"pairs": [*PAIRS, (0, 2)]}, "pairs that are to be ranked"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, changed: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_task(written(tmp_path, **changed))


def test_a_parquet_file_of_another_kind_is_refused_in_one_line(tmp_path: Path) -> None:
    (written(tmp_path) / "train_pairs.parquet").write_text("user,item\n")

    with pytest.raises(UserError, match=r"^[^\n]*train_pairs.parquet: [^\n]*$"):
        read_task(tmp_path)


def test_ties_and_undefined_scores_count_against_the_positive() -> None:
    nan = float("nan")
    scores = torch.tensor([[2.0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 2, 0], [nan, 1, 0], [1, nan, 0]])

    assert positive_ranks(scores).tolist() == [1, 2, 3, 2, 3, 2]


def test_metrics_of_one_positive() -> None:
    # Ranks 1, 3, 10, 11: log2(2) = 1, log2(4) = 2, log2(11), beyond the list.
    expected = [[1, 1], [1, 1 / 2], [1, 1 / np.log2(11)], [0, 0]]

    np.testing.assert_allclose(hit_rate_and_ndcg(torch.tensor([1, 3, 10, 11])), expected)


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
