"""Fit neural CF on the data of He et al. 2017, by that paper's own protocol, next to a dot product.

Each user's last item is ranked among 99 other items that come with the data. Three networks are fitted separately.
`dot_product` knows a user by an id, as the paper does. `by_history` is the network of training/models/neural_cf.py, which
knows a user by the items they took, so it also serves users that it was not fitted on. `neural_cf` is NeuMF: the weighted
sum of the dot product, a branch with an MLP and `by_history`, with weights that held-out pairs choose (section 3.4.1 of
the paper, without joint training afterwards).

One positive among 99 given negatives gives high numbers: compare only numbers of the same protocol (Krichene and Rendle
2020). Shapes: U users, N item rows (including PAD's), C candidates.
"""

from __future__ import annotations

import config.command  # noqa: F401  # before torch, which reads how threads wait
from data.times import now_iso

# isort: split

import argparse
import itertools
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import _record
from benchmarks._ncf_networks import (
    DeepBranch,
    DotProduct,
    Network,
    RankingTask,
    SetNeuralCF,
    score_candidates,
    train,
)
from config.command import UserError, exits_cleanly
from data.pages import interval_text
from experiments.evaluation.bootstrap import UserTotals, intervals
from features.vocabulary import PAD
from training import provenance
from training.models.artifact import hash_file

PAIRS, NEGATIVES = FILES = ("train_pairs.parquet", "ml-1m.test.negative")
K, RESAMPLES, MAX_EPOCHS, SEED = 10, 1000, 60, 0
METRICS = ("hr@10", "ndcg@10")
# Chosen on held-out pairs. Not in params.yaml, since no stage of the pipeline reads them.
DOT_PRODUCT = {
    "embedding_dim": 384,
    "num_negatives": 8,
    "batch_size": 256,
    "learning_rate": 0.003,
    "user_rate_factor": 7,  # a user occurs once per epoch, an item in every step
    "l2": 0.005,
    "ema_decay": 0.99,
    "patience": 10,
}
DEEP = DOT_PRODUCT | {
    "embedding_dim": 192,
    "hidden_dim": 16,
    "learning_rate": 0.006,
    "user_rate_factor": 5,
    "min_history_share": 0.2,
    "l2_history": 0.02,
}
BY_HISTORY = {
    "embedding_dim": 128,
    "hidden_dim": 32,
    "dropout": 0.0,
    "alpha": 0.0,
    "num_negatives": 2048,
    "min_history_share": 0.5,
    "batch_size": 128,
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "ema_decay": 0.99,
    "patience": 8,
}
WEIGHTS = {"dot_product": (1.0,), "deep": (0.0, 0.15, 0.3, 0.45), "by_history": (0.0, 0.1, 0.2, 0.3, 0.4)}


def read_task(folder: Path) -> RankingTask:
    """Read the published files. An item's row is its number + 1, since row 0 is PAD.

    Raises:
        UserError: a file is missing, or does not fit the other.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist; the folder needs {' and '.join(FILES)}")
    user, item = pd.read_parquet(folder / PAIRS, columns=["user", "item"]).to_numpy(np.int64).T
    lines = (folder / NEGATIVES).read_text(encoding="utf-8").splitlines()  # such as "(user,positive)\tnegative\t..."
    numbers = np.array([re.findall(r"\d+", line) for line in lines], dtype=np.int64)
    if not np.array_equal(numbers[:, 0], np.arange(len(numbers))):
        raise UserError(f"{NEGATIVES}: expected one line per user 0, 1, 2, ... in this order")
    candidates = torch.from_numpy(numbers[:, 1:] + 1)
    taken = torch.zeros(len(candidates), int(max(item.max() + 1, candidates.max())) + 1, dtype=torch.bool)
    taken[user, item + 1] = True
    if taken.gather(1, candidates).any():
        raise UserError(f"{PAIRS}: holds pairs that are to be ranked")
    return RankingTask(taken, candidates)


def hold_out(task: RankingTask, generator: torch.Generator) -> RankingTask:
    """The same task one step earlier: one pair of each user leaves `taken` and becomes the positive.

    As many negatives as in the task are drawn from what the user did not take. The task's candidates have no influence.
    """
    positive = torch.multinomial(task.taken.float(), 1, generator=generator)
    free = ~task.taken
    free[:, PAD] = False
    negatives = torch.multinomial(free.float(), task.candidates.shape[1] - 1, generator=generator)
    return RankingTask(task.taken.scatter(1, positive, False), torch.cat([positive, negatives], dim=1))


def hit_rate_and_ndcg(scores: Tensor) -> np.ndarray:
    """(U, 2) HR@10 and NDCG@10 of the first of (U, C) candidates. Ties and NaN count against it."""
    rank = 1 + (~(scores[:, 1:] < scores[:, :1])).sum(dim=1)
    hit = (rank <= K).double()
    return torch.stack([hit, hit / torch.log2(rank + 1.0)], dim=1).numpy()


class EvaluatedFit(NamedTuple):
    """A fit on all pairs, and the fit without the held-out pairs that chose its number of epochs."""

    scores: Tensor  # (U, C) of the task's candidates
    held_out_scores: Tensor  # (U, C) of the held-out candidates, by the fit that did not see the pairs
    best_epoch: int | dict[str, int]
    seconds: float


def fit_and_score(kind: type[Network], task: RankingTask, configuration: dict) -> EvaluatedFit:
    """Choose the number of epochs on held-out pairs, fit on all pairs, score the task's candidates once at the end."""
    started = time.perf_counter()
    held = hold_out(task, torch.Generator().manual_seed(SEED))
    best, best_epoch, best_scores = -1.0, 0, torch.empty(0)
    for epoch, network in enumerate(train(kind, held, configuration, SEED, MAX_EPOCHS), start=1):
        scores = score_candidates(network, held)
        ndcg = hit_rate_and_ndcg(scores)[:, 1].mean()
        if ndcg > best:
            best, best_epoch, best_scores = ndcg, epoch, scores
        if epoch - best_epoch >= configuration["patience"]:
            break
    *_, network = train(kind, task, configuration, SEED, best_epoch)
    return EvaluatedFit(score_candidates(network, task), best_scores, best_epoch, time.perf_counter() - started)


def best_sum(branches: dict[str, EvaluatedFit]) -> tuple[dict[str, float], EvaluatedFit]:
    """The weights of WEIGHTS that are best on the held-out pairs, and the weighted sum of the branches."""
    fits = list(branches.values())
    held, final = (torch.stack([getattr(fit, name) for fit in fits]) for name in ("held_out_scores", "scores"))
    choices = list(itertools.product(*WEIGHTS.values()))
    sums = [torch.tensordot(torch.tensor(weights), held, dims=1) for weights in choices]
    best = max(range(len(choices)), key=lambda number: hit_rate_and_ndcg(sums[number])[:, 1].mean())
    scores = torch.tensordot(torch.tensor(choices[best]), final, dims=1)
    best_epochs = {name: fit.best_epoch for name, fit in branches.items()}
    whole = EvaluatedFit(scores, sums[best], best_epochs, sum(fit.seconds for fit in fits))
    return dict(zip(WEIGHTS, choices[best], strict=True)), whole


def model_results(task: RankingTask) -> dict[str, dict[str, Any]]:
    """The result of NeuMF, and of those of its branches that are models of their own."""
    branches = {
        "dot_product": fit_and_score(DotProduct, task, DOT_PRODUCT),
        "deep": fit_and_score(DeepBranch, task, DEEP),
        "by_history": fit_and_score(SetNeuralCF, task, BY_HISTORY),
    }
    weights, whole = best_sum(branches)
    alone = {name: _result(branches[name]) for name in ("dot_product", "by_history")}
    return {"neural_cf": _result(whole) | {"weights": weights}} | alone


def _result(fit: EvaluatedFit) -> dict[str, Any]:
    values = hit_rate_and_ndcg(fit.scores)
    totals = UserTotals.from_cases(values, np.arange(len(values)), len(values))
    entries = np.stack(intervals(totals, SEED, RESAMPLES), axis=1).tolist()
    metrics = [dict(zip(("mean", "low", "high"), entry, strict=True)) for entry in entries]
    held_out = hit_rate_and_ndcg(fit.held_out_scores).mean(axis=0).tolist()
    return {
        "fit_seconds": round(fit.seconds, 1),
        "best_epoch": fit.best_epoch,
        "held_out": dict(zip(METRICS, held_out, strict=True)),
        "metrics": dict(zip(METRICS, metrics, strict=True)),
    }


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ncf_paper", description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the paper's files")
    folder = parser.parse_args(argv).data
    task = read_task(folder)
    torch.set_num_threads(1)
    result = {
        "protocol": "leave one out, 1 positive among 99 given negatives",
        "files": {name: hash_file(folder / name) for name in FILES},
        "commit": provenance.commit(),
        "date": now_iso(),
        "command": "python -m benchmarks.ncf_paper --data ncf-ml-1m",
        "params": {"dot_product": DOT_PRODUCT, "deep": DEEP, "by_history": BY_HISTORY},
        "models": model_results(task),
    }
    path = _record.RESULTS / "ncf-ml-1m.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    for name, model in result["models"].items():
        cells = ", ".join(f"{metric} {interval_text(entry)}" for metric, entry in model["metrics"].items())
        print(f"{name}: {cells}, fitted in {model['fit_seconds']:.0f} s")
    print(f"1 positive among 99 given negatives, 95% intervals by user; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
