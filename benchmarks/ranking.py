"""Rank a full catalog, with masks, lists and ranks of true items, against the bare product and top-k.

Shapes: B batch, N item rows, D vector size, k list length.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks._record import write
from training.models.ranking import exclude, rank

K, WIDTH, BATCH, SEEN = 100, 64, 512, 50


def random_batch(num_items: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Users (B, D), seen pairs (2, B * SEEN), truth (2, B): ranking costs the same whatever they mean."""
    rows = torch.arange(BATCH)
    seen = torch.randint(1, num_items, (BATCH * SEEN,), generator=generator)
    true = torch.randint(1, num_items, (BATCH,), generator=generator)
    users = torch.randn(BATCH, WIDTH, generator=generator)
    return users, torch.stack([rows.repeat_interleave(SEEN), seen]), torch.stack([rows, true])


def bare_ranking(items_ND: Tensor, users: Tensor, seen: Tensor, truth: Tensor) -> None:
    """The work that no evaluation can avoid."""
    (users @ items_ND.T).topk(K)


def full_ranking(items_ND: Tensor, users: Tensor, seen: Tensor, truth: Tensor) -> None:
    """The work of experiments.evaluate."""
    rank(exclude(users @ items_ND.T, seen), truth, K)


def batch_seconds(items_ND: Tensor, generator: torch.Generator, work: Callable) -> float:
    """Seconds to rank one batch, without making it."""
    batch = random_batch(len(items_ND), generator)
    started = time.perf_counter()
    work(items_ND, *batch)
    return time.perf_counter() - started


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_352, help="default: %(default)s")
    parser.add_argument("--items", type=int, default=50_000, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    generator, count = torch.Generator().manual_seed(0), max(1, arguments.cases // BATCH)
    items_ND = torch.randn(arguments.items, WIDTH, generator=generator)
    ways = (bare_ranking, full_ranking)
    with torch.inference_mode():
        for work in ways:  # warm-up: the first batch allocates memory that later ones reuse
            batch_seconds(items_ND, generator, work)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # In turns, so that other load on the machine affects both alike.
        rounds = [[batch_seconds(items_ND, generator, work) for work in ways] for _ in range(count)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    bare, full = (sum(column) for column in zip(*rounds, strict=True))
    figures = {
        "cases": count * BATCH,
        "items": arguments.items,
        "width": WIDTH,
        "k": K,
        "reference": "matrix product + topk",
        "reference_seconds": round(bare, 3),
        "seconds": round(full, 3),
        "ratio": round(bare / full, 3),
        "memory_grown_mb": round(grown / 1024, 1),
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    print(f"written to {write('ranking', figures)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
