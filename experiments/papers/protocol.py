"""The protocol of He et al. 2017: each user's last item is ranked among 99 other items that come with the data.

Shapes: U users, N item rows (including PAD's), C candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from config.command import UserError
from features.vocabulary import PAD

PAIRS, POSITIVES, NEGATIVES = "train_pairs.parquet", "ml-1m.test.rating", "ml-1m.test.negative"
K = 10


@dataclass(frozen=True)
class RankingTask:
    """What users took, and the candidates among which one more item of theirs is to be found.

    Attributes:
        taken: (U, N) bool.
        candidates: (U, C) item rows: the positive first, then its negatives.
    """

    taken: Tensor
    candidates: Tensor


def read_task(folder: Path) -> RankingTask:
    """Read the published files. An item's row is its number + 1, since row 0 is PAD.

    Raises:
        UserError: a file is missing, has another format, or does not fit the others.
    """
    for name in (PAIRS, POSITIVES, NEGATIVES):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist; the folder needs {PAIRS}, {POSITIVES} and {NEGATIVES}")
    try:
        pairs = pd.read_parquet(folder / PAIRS, columns=["user", "item"]).to_numpy(np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / PAIRS}: {error}".splitlines()[0]) from None
    positives = _read_numbers(folder / POSITIVES)[:, :2]
    negatives = _read_numbers(folder / NEGATIVES)
    if not np.array_equal(positives[:, 0], np.arange(len(positives))):
        raise UserError(f"{POSITIVES}: expected one line per user 0, 1, 2, ... in this order")
    if not np.array_equal(positives, negatives[:, :2]):
        raise UserError(f"{NEGATIVES}: its lines do not start with the pairs of {POSITIVES}")
    candidates = torch.from_numpy(negatives[:, 1:] + 1)
    user, row = torch.from_numpy(pairs[:, 0]), torch.from_numpy(pairs[:, 1] + 1)
    if len(pairs) == 0 or not 0 <= user.min() <= user.max() < len(candidates):
        raise UserError(f"{PAIRS}: its users are not among the {len(candidates)} of {POSITIVES}")
    taken = torch.zeros(len(candidates), int(max(row.max(), candidates.max())) + 1, dtype=torch.bool)
    taken[user, row] = True
    if taken.gather(1, candidates).any():
        raise UserError(f"{PAIRS}: holds pairs that are to be ranked")
    return RankingTask(taken, candidates)


def _read_numbers(path: Path) -> np.ndarray:
    """(lines, numbers) of a file of integers between tabs; a pair may be written as `(3,14)`."""
    lines = path.read_text().translate(str.maketrans("(),", "   ")).splitlines()
    try:
        return np.array([line.split() for line in lines], dtype=np.int64).reshape(len(lines), -1)
    except ValueError:
        raise UserError(f"{path.name}: expected the same number of integers between tabs in each line") from None


def data_hash(folder: Path) -> str:
    """blake2b of the three files."""
    digest = blake2b(digest_size=16)
    for name in (PAIRS, POSITIVES, NEGATIVES):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def hold_out(task: RankingTask, generator: torch.Generator) -> RankingTask:
    """The same task one step earlier: one pair of each user leaves `taken` and becomes the positive.

    As many negatives as in the task are drawn from what the user did not take. The task's candidates have no influence.
    """
    positive = torch.multinomial(task.taken.float(), 1, generator=generator)
    free = ~task.taken
    free[:, PAD] = False
    negatives = torch.multinomial(free.float(), task.candidates.shape[1] - 1, generator=generator)
    return RankingTask(task.taken.scatter(1, positive, False), torch.cat([positive, negatives], dim=1))


def positive_ranks(scores: Tensor) -> Tensor:
    """(U,) 1-based rank of the first of (U, C) candidates. Ties and NaN count against it."""
    return 1 + (~(scores[:, 1:] < scores[:, :1])).sum(dim=1)


def hit_rate_and_ndcg(rank: Tensor) -> np.ndarray:
    """(U, 2) HR@10 and NDCG@10 of each user's one positive."""
    hit = (rank <= K).double()
    return torch.stack([hit, hit / torch.log2(rank + 1.0)], dim=1).numpy()


Scorer = Callable[[RankingTask], Tensor]  # (U, C) scores of each user's candidates, from all that the user took
# Trains on all pairs of `taken` for a number of epochs and yields a scorer after each.
Training = Callable[[RankingTask, int], Iterator[Scorer]]


@dataclass(frozen=True)
class EvaluatedFit:
    """A fit on all pairs, and the fit without the held-out pairs that chose its number of epochs.

    Attributes:
        scores: (U, C) of the task's candidates.
        held_out_scores: (U, C) of the held-out candidates, by the fit that did not see the pairs.
        held_out: HR@10 and NDCG@10 of these.
    """

    scores: Tensor
    held_out_scores: Tensor
    held_out: list[float]
    best_epoch: int
    seconds: float


def fit_and_score(training: Training, task: RankingTask, seed: int, epochs: int, patience: int) -> EvaluatedFit:
    """Choose the number of epochs on held-out pairs, fit on all pairs, score the task's candidates once at the end."""
    started = time.perf_counter()
    held = hold_out(task, torch.Generator().manual_seed(seed))
    best, best_values, best_epoch, best_scores = -1.0, np.zeros(2), 0, torch.empty(0)
    for epoch, scorer in enumerate(training(held, epochs), start=1):
        scores = scorer(held)
        values = hit_rate_and_ndcg(positive_ranks(scores)).mean(axis=0)
        if values[1] > best:
            best, best_values, best_epoch, best_scores = values[1], values, epoch, scores
        if epoch - best_epoch >= patience:
            break
    *_, scorer = training(task, best_epoch)
    return EvaluatedFit(scorer(task), best_scores, best_values.tolist(), best_epoch, time.perf_counter() - started)
