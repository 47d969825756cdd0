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


class RandomBatches:
    """Random vectors, histories and true items: ranking costs the same whatever they mean."""

    def __init__(self, num_items: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.items_ND = torch.randn(num_items, WIDTH, generator=self.generator)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Users (B, D), seen pairs (2, B * SEEN), truth (2, B)."""
        rows, num_items = torch.arange(BATCH), len(self.items_ND)
        seen = torch.randint(1, num_items, (BATCH * SEEN,), generator=self.generator)
        true = torch.randint(1, num_items, (BATCH,), generator=self.generator)
        users = torch.randn(BATCH, WIDTH, generator=self.generator)
        return users, torch.stack([rows.repeat_interleave(SEEN), seen]), torch.stack([rows, true])


def bare_ranking(items_ND: Tensor, users: Tensor, seen: Tensor, truth: Tensor) -> None:
    """The work that no evaluation can avoid."""
    (users @ items_ND.T).topk(K)


def full_ranking(items_ND: Tensor, users: Tensor, seen: Tensor, truth: Tensor) -> None:
    """The work of experiments.evaluate."""
    rank(exclude(users @ items_ND.T, seen), truth, K)


def batch_seconds(batches: RandomBatches, work: Callable) -> float:
    """Seconds to rank one batch, without making it."""
    batch = batches.draw()
    started = time.perf_counter()
    work(batches.items_ND, *batch)
    return time.perf_counter() - started


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_352, help="default: %(default)s")
    parser.add_argument("--items", type=int, default=50_000, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    batches, count = RandomBatches(arguments.items), max(1, arguments.cases // BATCH)
    with torch.inference_mode():
        for work in (bare_ranking, full_ranking):  # warm-up: the first batch allocates memory that later ones reuse
            batch_seconds(batches, work)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # In turns, so that other load on the machine affects both alike.
        rounds = [(batch_seconds(batches, bare_ranking), batch_seconds(batches, full_ranking)) for _ in range(count)]
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
