"""Ranking a full catalogue, masks, lists and ranks of true items included, against the bare product and top-k.

Legend: C cases, B batch, N item rows, D width, k list length.
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


class World:
    """Random vectors, histories and true items: ranking costs the same whatever they mean."""

    def __init__(self, items: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.items_ND = torch.randn(items, WIDTH, generator=self.generator)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Users (B, D), seen pairs (2, B * SEEN), truth (2, B)."""
        rows = torch.arange(BATCH)
        high = len(self.items_ND)
        seen = torch.randint(1, high, (BATCH * SEEN,), generator=self.generator)
        true = torch.randint(1, high, (BATCH,), generator=self.generator)
        users = torch.randn(BATCH, WIDTH, generator=self.generator)
        return users, torch.stack([rows.repeat_interleave(SEEN), seen]), torch.stack([rows, true])


def reference(world: World, users: Tensor, seen: Tensor, truth: Tensor) -> None:
    """What no evaluation can do without."""
    (users @ world.items_ND.T).topk(K)


def ours(world: World, users: Tensor, seen: Tensor, truth: Tensor) -> None:
    """What experiments.evaluate does of it."""
    rank(exclude(users @ world.items_ND.T, seen), truth, K)


def seconds(world: World, work: Callable, batches: int) -> float:
    """Wall time of `batches` batches; their making is not counted."""
    total = 0.0
    for _ in range(batches):
        made = world.batch()
        begun = time.perf_counter()
        work(world, *made)
        total += time.perf_counter() - begun
    return total


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_352, help="default: %(default)s")
    parser.add_argument("--items", type=int, default=50_000, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    world, batches = World(arguments.items), max(1, arguments.cases // BATCH)
    with torch.inference_mode():
        for work in (reference, ours):  # warm: the first batch pays for memory that later ones reuse
            seconds(world, work, 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # In turns, so that whatever else the machine does weighs on both alike.
        rounds = [(seconds(world, reference, 1), seconds(world, ours, 1)) for _ in range(batches)]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    bare, full = (sum(column) for column in zip(*rounds, strict=True))
    path = write("ranking", {
        "cases": batches * BATCH, "items": arguments.items, "width": WIDTH, "k": K,
        "reference": "matrix product + topk", "reference_seconds": round(bare, 3), "seconds": round(full, 3),
        "ratio": round(bare / full, 3), "memory_grown_mb": round(grown / 1024, 1),
    })  # fmt: skip
    print(
        f"ranking: {batches * BATCH:,} cases against {arguments.items:,} items in {full:.1f} s, bare product and top-{K} "
        f"in {bare:.1f} s: {bare / full:.2f} of its speed; memory grew by {grown / 1024:.0f} MB -> {path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
