"""VERB ncf_paper: fit neural CF on the data of He et al. 2017, by that paper's own protocol, beside a dot product.

Three networks are fitted separately. `dot_product` knows a user by an id, as the paper does. `by_history` is the network
of training/models/neural_cf.py, which knows a user by the items they took, so it also serves users that it was not
fitted on. `neural_cf` is NeuMF: the weighted sum of the dot product, a branch with an MLP and `by_history`, with weights
that held-out pairs choose (section 3.4.1 of the paper, without joint training afterwards).

One positive among 99 given negatives gives high numbers: compare only numbers of the same protocol (Krichene and Rendle
2020).
"""

from __future__ import annotations

import config.command  # noqa: F401  # before torch, which reads how threads wait
from data.times import now_iso

# isort: split

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from config.command import exits_cleanly
from config.paths import ROOT
from experiments.evaluation.bootstrap import UserTotals, intervals
from experiments.pages import interval_text
from experiments.papers.networks import DeepBranch, DotProduct, branch_training, set_ncf_training
from experiments.papers.protocol import (
    EvaluatedFit,
    RankingTask,
    data_hash,
    fit_and_score,
    hit_rate_and_ndcg,
    positive_ranks,
    read_task,
)
from training import provenance

# Apart from the results of datasets, which rank the full catalog after a cut in time.
RESULTS = ROOT / "experiments" / "results" / "papers"
RESAMPLES = 1000
METRICS = ("hr@10", "ndcg@10")
PUBLISHED = {  # HR@10 and NDCG@10
    "NeuMF (He et al. 2017)": [0.730, 0.447],
    "dot product (Rendle et al. 2020)": [0.729, 0.452],
}
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


def fit_branches(task: RankingTask, seed: int, epochs: int) -> dict[str, EvaluatedFit]:
    """Fit each branch alone."""
    trainings = {
        "dot_product": (branch_training(DotProduct, DOT_PRODUCT, seed), DOT_PRODUCT),
        "deep": (branch_training(DeepBranch, DEEP, seed), DEEP),
        "by_history": (set_ncf_training(BY_HISTORY, seed), BY_HISTORY),
    }
    return {
        name: fit_and_score(training, task, seed, epochs, int(configuration["patience"]))
        for name, (training, configuration) in trainings.items()
    }


def best_sum(branches: dict[str, EvaluatedFit]) -> tuple[dict[str, float], EvaluatedFit]:
    """The weights of WEIGHTS that are best on the held-out pairs, and the weighted sum of the branches."""
    choices = [dict(zip(WEIGHTS, values, strict=True)) for values in itertools.product(*WEIGHTS.values())]
    held = [_sum({name: fit.held_out_scores for name, fit in branches.items()}, weights) for weights in choices]
    held_out = [hit_rate_and_ndcg(positive_ranks(scores)).mean(axis=0).tolist() for scores in held]
    best = max(range(len(choices)), key=lambda number: held_out[number][1])
    scores = _sum({name: fit.scores for name, fit in branches.items()}, choices[best])
    seconds = sum(fit.seconds for fit in branches.values())
    return choices[best], EvaluatedFit(scores, held[best], held_out[best], 0, seconds)


def _sum(scores: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    return torch.stack([weights[name] * values for name, values in scores.items()]).sum(dim=0)


def model_results(task: RankingTask, seed: int, epochs: int) -> dict[str, dict[str, Any]]:
    """The result of NeuMF, and of those of its branches that are models of their own."""
    branches = fit_branches(task, seed, epochs)
    weights, whole = best_sum(branches)
    best_epochs = {name: fit.best_epoch for name, fit in branches.items()}
    alone = {name: _result(branches[name], seed, best_epochs[name]) for name in ("dot_product", "by_history")}
    return {"neural_cf": _result(whole, seed, best_epochs) | {"weights": weights}} | alone


def _result(fit: EvaluatedFit, seed: int, best_epoch: int | dict[str, int]) -> dict[str, Any]:
    values = hit_rate_and_ndcg(positive_ranks(fit.scores))
    totals = UserTotals.from_cases(values, np.arange(len(values)), len(values))
    entries = np.stack(intervals(totals, seed, RESAMPLES), axis=1).tolist()
    return {
        "fit_seconds": round(fit.seconds, 1),
        "best_epoch": best_epoch,
        "held_out": dict(zip(METRICS, fit.held_out, strict=True)),
        "metrics": {
            name: dict(zip(("mean", "low", "high"), entry, strict=True))
            for name, entry in zip(METRICS, entries, strict=True)
        },
    }


def text_table(result: dict[str, Any]) -> str:
    """Measured and published numbers as a table for the terminal."""
    lines = [f"{'':34} {'HR@10':25} {'NDCG@10':25} fit s"]
    for name, model in result["models"].items():
        cells = [interval_text(entry) for entry in model["metrics"].values()]
        lines.append(f"{name:34} {cells[0]:25} {cells[1]:25} {model['fit_seconds']:.0f}")
    for name, published in result["published"].items():
        lines.append(f"{name:34} {published['hr@10']:<25.3f} {published['ndcg@10']:<25.3f}")
    return "\n".join(lines)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.ncf_paper", description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the paper's files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60, help="at most this many (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for ncf-ml-1m.json")
    arguments = parser.parse_args(argv)
    task = read_task(arguments.data)
    torch.set_num_threads(arguments.threads)
    options = f"--seed {arguments.seed} --epochs {arguments.epochs} --threads {arguments.threads}"
    result = {
        "protocol": "leave one out, 1 positive among 99 given negatives",
        "dataset": "ncf-ml-1m",
        "dataset_hash": data_hash(arguments.data),
        "commit": provenance.commit(),
        "date": now_iso(),
        "command": f"python -m experiments.ncf_paper --data ncf-ml-1m {options}",
        "seeds": [arguments.seed],
        "params": {"dot_product": DOT_PRODUCT, "deep": DEEP, "by_history": BY_HISTORY},
        "models": model_results(task, arguments.seed, arguments.epochs),
        "published": {name: dict(zip(METRICS, values, strict=True)) for name, values in PUBLISHED.items()},
    }
    path = arguments.results / "ncf-ml-1m.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")
    print(text_table(result))
    print(f"measured 3 models, 1 positive among 99 given negatives, 95% intervals by user; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
