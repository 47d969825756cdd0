"""The protocol of He et al. 2017: each user's last item is ranked among 99 others that come with the data.

Legend: U users, N item rows (PAD's included), C candidates.
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
class Given:
    """What users took, and among which items one more of theirs is to be found."""

    taken: Tensor  # (U, N) bool
    candidates: Tensor  # (U, C) item rows: the positive, then its negatives


def read(folder: Path) -> Given:
    """The published files. An item's row is its number + 1, since row 0 is PAD.

    Raises:
        UserError: a file is absent, is not of that form, or does not fit the others.
    """
    for name in (PAIRS, POSITIVES, NEGATIVES):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist; the folder needs {PAIRS}, {POSITIVES} and {NEGATIVES}")
    try:
        pairs = pd.read_parquet(folder / PAIRS, columns=["user", "item"]).to_numpy(np.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / PAIRS}: {error}".splitlines()[0]) from None
    positives = _numbers(folder / POSITIVES)[:, :2]
    negatives = _numbers(folder / NEGATIVES)
    if not np.array_equal(positives[:, 0], np.arange(len(positives))):
        raise UserError(f"{POSITIVES}: its lines are not users 0, 1, 2, ...")
    if not np.array_equal(positives, negatives[:, :2]):
        raise UserError(f"{NEGATIVES}: its lines do not name the pairs of {POSITIVES}")
    candidates = torch.from_numpy(negatives[:, 1:] + 1)
    user, row = torch.from_numpy(pairs[:, 0]), torch.from_numpy(pairs[:, 1] + 1)
    if len(pairs) == 0 or not 0 <= user.min() <= user.max() < len(candidates):
        raise UserError(f"{PAIRS}: its users are not among the {len(candidates)} of {POSITIVES}")
    taken = torch.zeros(len(candidates), int(max(row.max(), candidates.max())) + 1, dtype=torch.bool)
    taken[user, row] = True
    if taken.gather(1, candidates).any():
        raise UserError(f"{PAIRS}: holds pairs that are to be ranked")
    return Given(taken, candidates)


def _numbers(path: Path) -> np.ndarray:
    """(lines, numbers) of a file of whole numbers between tabs; a pair may stand as `(3,14)`."""
    lines = path.read_text().translate(str.maketrans("(),", "   ")).splitlines()
    try:
        return np.array([line.split() for line in lines], dtype=np.int64).reshape(len(lines), -1)
    except ValueError:
        raise UserError(f"{path.name}: its lines are not equally many whole numbers between tabs") from None


def fingerprint(folder: Path) -> str:
    """blake2b of the three files."""
    digest = blake2b(digest_size=16)
    for name in (PAIRS, POSITIVES, NEGATIVES):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def hold_out(given: Given, generator: torch.Generator) -> Given:
    """The same task one step earlier: a pair of each user leaves `taken` and is the positive.

    The negatives, as many as given, are drawn from what the user did not take. The given candidates play no part.
    """
    positive = torch.multinomial(given.taken.float(), 1, generator=generator)
    free = ~given.taken
    free[:, PAD] = False
    negatives = torch.multinomial(free.float(), given.candidates.shape[1] - 1, generator=generator)
    return Given(given.taken.scatter(1, positive, False), torch.cat([positive, negatives], dim=1))


def ranks(scores: Tensor) -> Tensor:
    """(U,) rank of the first of (U, C) candidates, from 1. Ties count against it, and so does NaN."""
    return 1 + (~(scores[:, 1:] < scores[:, :1])).sum(dim=1)


def metrics(rank: Tensor) -> np.ndarray:
    """(U, 2) HR@10 and NDCG@10 of each user's one positive."""
    hit = (rank <= K).double()
    return torch.stack([hit, hit / torch.log2(rank + 1.0)], dim=1).numpy()


Scorer = Callable[[Given], Tensor]  # (U, C) scores of each user's candidates, from all that the user took
Training = Callable[[Given, int], Iterator[Scorer]]  # so many epochs on all pairs of `taken`: a scorer after each


@dataclass(frozen=True)
class Fit:
    """What a fit on all pairs scores, and what the fit without the held-out ones did."""

    scores: Tensor  # (U, C) of the given candidates
    held_scores: Tensor  # (U, C) of the held-out ones, by the fit that did not see them
    held_out: list[float]  # HR@10 and NDCG@10 there
    best_epoch: int
    seconds: float


def fit(training: Training, given: Given, seed: int, epochs: int, patience: int) -> Fit:
    """The given candidates decide nothing and are scored once, at the end."""
    begun = time.perf_counter()
    held = hold_out(given, torch.Generator().manual_seed(seed))
    best, found, best_epoch, held_scores = -1.0, np.zeros(2), 0, torch.empty(0)
    for epoch, scorer in enumerate(training(held, epochs), start=1):
        scores = scorer(held)
        values = metrics(ranks(scores)).mean(axis=0)
        if values[1] > best:
            best, found, best_epoch, held_scores = values[1], values, epoch, scores
        if epoch - best_epoch >= patience:
            break
    *_, scorer = training(given, best_epoch)
    return Fit(scorer(given), held_scores, found.tolist(), best_epoch, time.perf_counter() - begun)
