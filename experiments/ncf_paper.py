"""Fit neural CF on the data of He et al. 2017, by that paper's own protocol, beside a dot product.

Three are fitted. `neural_cf` is NeuMF, whose users are ids as in the paper: its two branches, each fitted alone, summed
with shares that held-out pairs choose (section 3.4.1, without the training of both that follows there). `dot_product` is the branch that
multiplies, alone. `by_history` is the network of training/models/neural_cf.py, which knows a user by what they took,
and so answers for people that it was not fitted on.

One positive among 99 given negatives flatters: only figures of the same protocol compare (Krichene and Rendle 2020).
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import params
from command import exits_cleanly
from experiments.evaluation.bootstrap import Intervals, Totals, intervals
from experiments.papers import ncf_fit, neumf_fit
from experiments.papers.given_negatives import Given, fingerprint, metrics, ranks, read
from experiments.papers.neumf import Deep, Product
from experiments.papers.set_history import SetNeuralCF
from training import provenance

# Not beside the data sets' own results: those are rankings of the full catalogue after a cut in time.
RESULTS = params.ROOT / "experiments" / "results" / "papers"
RESAMPLES = 1000
# HR@10 and NDCG@10 as published.
PUBLISHED = {
    "NeuMF (He et al. 2017)": [0.730, 0.447],
    "dot product (Rendle et al. 2020)": [0.729, 0.452],
}
# Chosen on the held-out pairs. Not in params.yaml: no stage of the pipeline reads them.
BY_ID = {
    "width": 384,
    "hidden": 16,
    "negatives": 8,
    "least_read": 0.2,
    "batch_users": 256,
    "learning_rate": 0.006,
    "users_faster": 5,  # each is met once an epoch, an item in every step
    "l2": 0.005,
    "l2_read": 0.02,
    "average_decay": 0.99,
    "patience": 10,
}
SHARES = (0.5, 0.6, 0.7, 0.8)  # of the branch that multiplies; the paper's alpha
BY_HISTORY = {
    "width": 128,
    "hidden": 32,
    "dropout": 0.0,
    "alpha": 0.0,
    "negatives": 2048,
    "least_read": 0.5,
    "batch_users": 128,
    "learning_rate": 0.002,
    "weight_decay": 0.01,
    "average_decay": 0.99,
    "patience": 8,
}


def by_id(given: Given, seed: int, epochs: int) -> dict[str, dict]:
    """NeuMF and its branch that multiplies, each branch fitted alone."""
    product, deep = (neumf_fit.fit(kind, given, BY_ID, seed, epochs) for kind in (Product, Deep))
    held = {share: sum_of(product.held_scores, deep.held_scores, share) for share in SHARES}
    held_out = {share: metrics(ranks(scores)).mean(axis=0).tolist() for share, scores in held.items()}
    share = max(SHARES, key=lambda share: held_out[share][1])
    return {
        "neural_cf": {
            "fit_seconds": round(product.seconds + deep.seconds, 1),
            "best_epoch": [product.best_epoch, deep.best_epoch],
            "share": share,
            "held_out": named(held_out[share]),
            "metrics": measured(sum_of(product.scores, deep.scores, share), seed),
        },
        "dot_product": {
            "fit_seconds": round(product.seconds, 1),
            "best_epoch": product.best_epoch,
            "held_out": named(product.held_out),
            "metrics": measured(product.scores, seed),
        },
    }


def sum_of(product: Tensor, deep: Tensor, share: float) -> Tensor:
    """(U, C) scores of both branches."""
    return share * product + (1 - share) * deep


def by_history(given: Given, seed: int, epochs: int) -> dict:
    """The network as it is served."""
    fitted = ncf_fit.fit(SetNeuralCF, given, BY_HISTORY, seed, epochs)
    return {
        "fit_seconds": round(fitted.seconds, 1),
        "best_epoch": fitted.best_epoch,
        "held_out": named(fitted.held_out),
        "metrics": measured(ncf_fit.score(fitted.model, given), seed),
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
        "params": {"by_id": BY_ID, "by_history": BY_HISTORY},
        "models": by_id(given, args.seed, args.epochs) | {"by_history": by_history(given, args.seed, args.epochs)},
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
