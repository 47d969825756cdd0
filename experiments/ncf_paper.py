"""Fit neural CF on the data of He et al. 2017, by that paper's own protocol, beside a dot product.

Three networks are fitted, each alone. `dot_product` knows a user by an id, as the paper does, and multiplies.
`by_history` is the network of training/models/neural_cf.py, which knows a user by what they took, and so answers for
people that it was not fitted on. `neural_cf` is NeuMF: the sum of the first, of a branch with an MLP and of the second,
with weights that held-out pairs choose (section 3.4.1, without the training of all that follows there).

One positive among 99 given negatives flatters: only figures of the same protocol compare (Krichene and Rendle 2020).
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from config.command import exits_cleanly
from config.paths import ROOT
from experiments.evaluation.bootstrap import Intervals, Totals, intervals
from experiments.papers import networks
from experiments.papers.networks import Deep, Product
from experiments.papers.protocol import Fit, Given, Training, fingerprint, fit, metrics, ranks, read
from training import provenance

# Not beside the data sets' own results: those are rankings of the full catalogue after a cut in time.
RESULTS = ROOT / "experiments" / "results" / "papers"
RESAMPLES = 1000
# HR@10 and NDCG@10 as published.
PUBLISHED = {
    "NeuMF (He et al. 2017)": [0.730, 0.447],
    "dot product (Rendle et al. 2020)": [0.729, 0.452],
}
# Chosen on the held-out pairs. Not in params.yaml: no stage of the pipeline reads them.
PRODUCT = {
    "embedding_dim": 384,
    "num_negatives": 8,
    "batch_users": 256,
    "learning_rate": 0.003,
    "users_faster": 7,  # each is met once an epoch, an item in every step
    "l2": 0.005,
    "ema_decay": 0.99,
    "patience": 10,
}
DEEP = PRODUCT | {
    "embedding_dim": 192,
    "hidden_dim": 16,
    "learning_rate": 0.006,
    "users_faster": 5,
    "least_read": 0.2,
    "l2_read": 0.02,
}
BESIDE = ((0.0, 0.15, 0.3, 0.45), (0.0, 0.1, 0.2, 0.3, 0.4))  # weights of deep and by_history, to one of dot_product
BY_HISTORY = {
    "embedding_dim": 128,
    "hidden_dim": 32,
    "dropout": 0.0,
    "alpha": 0.0,
    "num_negatives": 2048,
    "least_read": 0.5,
    "batch_users": 128,
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "ema_decay": 0.99,
    "patience": 8,
}


def fits(given: Given, seed: int, epochs: int) -> dict[str, Fit]:
    """Each branch, fitted alone."""
    ways: dict[str, tuple[Training, dict]] = {
        "dot_product": (networks.train_neumf(Product, PRODUCT, seed), PRODUCT),
        "deep": (networks.train_neumf(Deep, DEEP, seed), DEEP),
        "by_history": (networks.train_set_ncf(BY_HISTORY, seed), BY_HISTORY),
    }
    return {name: fit(way, given, seed, epochs, recipe["patience"]) for name, (way, recipe) in ways.items()}


def summed(branches: dict[str, Fit]) -> tuple[dict[str, float], Fit]:
    """The weights that do best on the held-out pairs, and the sum that they give."""
    sums = [dict(zip(branches, (1.0, *beside), strict=True)) for beside in itertools.product(*BESIDE)]
    held = [weighed({name: branch.held_scores for name, branch in branches.items()}, weights) for weights in sums]
    held_out = [metrics(ranks(scores)).mean(axis=0).tolist() for scores in held]
    best = max(range(len(sums)), key=lambda place: held_out[place][1])
    scores = weighed({name: branch.scores for name, branch in branches.items()}, sums[best])
    seconds = sum(branch.seconds for branch in branches.values())
    return sums[best], Fit(scores, held[best], held_out[best], 0, seconds)


def weighed(scores: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """(U, C) the sum of scores."""
    return torch.stack([weights[name] * values for name, values in scores.items()]).sum(dim=0)


def models(given: Given, seed: int, epochs: int) -> dict[str, dict]:
    """What is reported: NeuMF, and those of its branches that are models of their own."""
    branches = fits(given, seed, epochs)
    weights, whole = summed(branches)
    epochs_taken = {name: branch.best_epoch for name, branch in branches.items()}
    alone = {name: entry(branches[name], seed, branches[name].best_epoch) for name in ("dot_product", "by_history")}
    return {"neural_cf": entry(whole, seed, epochs_taken) | {"weights": weights}} | alone


def entry(fitted: Fit, seed: int, best_epoch: int | dict[str, int]) -> dict:
    """One model's part of the result."""
    return {
        "fit_seconds": round(fitted.seconds, 1),
        "best_epoch": best_epoch,
        "held_out": named(fitted.held_out),
        "metrics": measured(fitted.scores, seed),
    }


def measured(scores: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Both metrics of (U, C) scores of the given candidates."""
    values = metrics(ranks(scores))
    found = intervals(Totals.of(values, np.arange(len(values)), len(values)), seed, RESAMPLES)
    return named(entries(found))


def named(values: list) -> dict:
    """The two metrics under their names."""
    return dict(zip(("hr@10", "ndcg@10"), values, strict=True))


def entries(found: Intervals) -> list[dict[str, float]]:
    """Mean and 95% interval of each metric."""
    return [{"mean": m, "low": low, "high": high} for m, low, high in np.stack(found, axis=1).tolist()]


def lines(result: dict) -> list[str]:
    """What was measured and what was published, for people."""
    rows = [f"{'':34} {'HR@10':25} {'NDCG@10':25} fit s"]
    for name, model in result["models"].items():
        cells = [f"{one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]" for one in model["metrics"].values()]
        rows.append(f"{name:34} {cells[0]:25} {cells[1]:25} {model['fit_seconds']:.0f}")
    for name, published in result["published"].items():
        rows.append(f"{name:34} {published['hr@10']:<25.3f} {published['ndcg@10']:<25.3f}")
    return rows


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the paper's files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60, help="at most this many (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for ncf-ml-1m.json")
    args = parser.parse_args(argv)
    given = read(args.data)
    torch.set_num_threads(args.threads)
    result = {
        "protocol": "leave one out, 1 positive among 99 given negatives",
        "dataset": "ncf-ml-1m",
        "dataset_hash": fingerprint(args.data),
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": f"python -m experiments.ncf_paper --data ncf-ml-1m --seed {args.seed} --epochs {args.epochs}"
        f" --threads {args.threads}",
        "seeds": [args.seed],
        "params": {"dot_product": PRODUCT, "deep": DEEP, "by_history": BY_HISTORY},
        "models": models(given, args.seed, args.epochs),
        "published": {name: named(values) for name, values in PUBLISHED.items()},
    }
    path = args.results / "ncf-ml-1m.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")
    print("\n".join(lines(result)))
    print(f"ncf_paper: 1 positive among 99 given negatives, 95% intervals by user -> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
