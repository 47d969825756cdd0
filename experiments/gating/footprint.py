"""What an artifact costs whoever serves it: its size, and the time of an answer, asked in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gate_params import Budgets
from serving.worker.recommender import Recommender

ROUNDS = 5
Clock = Callable[[], float]


def size_mb(folder: Path) -> float:
    """Of all files of an artifact, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def latencies(recommenders: Mapping[str, Recommender], clock: Clock = time.process_time) -> dict[str, float]:
    """Role -> median milliseconds of an answer to a golden request, asked one at a time.

    Processor time, which on one thread is the time of an answer with the machine to itself: what else runs beside the
    gate must decide nothing. The roles take turns, request by request; a first round, which pays for what the others
    find ready, is not counted.
    """
    requests = {role: [entry["request"] for entry in one.golden()] for role, one in recommenders.items()}
    taken: dict[str, list[float]] = {role: [] for role in recommenders}
    for turn in range(ROUNDS + 1):
        for number in range(max(map(len, requests.values()), default=0)):
            for role, one in recommenders.items():
                if number < len(requests[role]):
                    begun = clock()
                    one.recommend([requests[role][number]])
                    if turn:
                        taken[role].append((clock() - begun) * 1000)
    return {role: float(np.median(values)) for role, values in taken.items()}


def budgets(sizes: Mapping[str, float], speeds: Mapping[str, float], policy: Budgets) -> list[dict[str, Any]]:
    """One row a budget: {"name", "unit", "candidate", "champion", "limit", "within"}.

    Args:
        sizes, speeds: of "candidate" and "champion", in MB and ms.
    """
    free = max(policy.latency_ratio * speeds["champion"], policy.latency_free_ms)
    limits = {
        "size": ("MB", sizes, policy.size_mb),
        "latency": ("ms", speeds, min(policy.latency_ms, free)),
    }
    return [
        {"name": name, "unit": unit, **{role: round(found[role], 3) for role in ("candidate", "champion")},
         "limit": round(limit, 3), "within": bool(found["candidate"] <= limit)}
        for name, (unit, found, limit) in limits.items()
    ]  # fmt: skip
