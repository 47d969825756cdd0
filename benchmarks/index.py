"""Find the best 20 of 10k, 100k and 1M items: exact scoring against the FAISS index, on vectors of a trained model.

Both work on batches of 8 queries on one thread, as a worker does. The recall is measured on queries that neither built
nor tuned the index. "answers" are whole: from parsed requests to what the handler sends.

Shapes: N item rows, D vector size, K candidates, k list length.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from torch import Tensor

from benchmarks import _synthetic
from benchmarks._record import write
from data.times import to_iso
from features.sequences import EvaluationCases, batches, next_item_cases
from features.trends import TrendSnapshot
from serving.artifact import build_index
from serving.worker.index import ItemIndex, Retrieval
from serving.worker.recommender import BATCH_ROWS, Recommender
from training import validation

K, CANDIDATES, RECALL, WIDTH = 20, 512, 0.995, 64
MAX_PROBES = 1024
Search = Callable[[Tensor], Tensor]  # (8, D) queries -> (8, k) item rows


def exact_search(items: Tensor) -> Search:
    """The best k by the product with every item."""
    return lambda queries: (queries @ items[1:].T).topk(K, dim=1).indices + 1


def index_search(index: ItemIndex, items: Tensor) -> Search:
    """The best k of the index's candidates, by exact products."""

    def search(queries: Tensor) -> Tensor:
        rows = index.search(queries, CANDIDATES)
        scores = torch.einsum("pmd,pd->pm", torch.nn.functional.embedding(rows, items), queries)
        return rows.gather(1, scores.masked_fill(rows == 0, -torch.inf).topk(K, dim=1).indices)

    return search


def call_times(work: Callable, parts: list) -> dict[str, float]:
    """p50 and p99 milliseconds of one call, after a warm-up."""
    milliseconds = []
    for part in [*parts[:4], *parts]:
        started = time.perf_counter()
        work(part)
        milliseconds.append(1e3 * (time.perf_counter() - started))
    measured = milliseconds[4:]
    p99 = statistics.quantiles(measured, n=100)[98]
    return {"p50_ms": round(statistics.median(measured), 3), "p99_ms": round(p99, 3)}


def recall(search: Search, items: Tensor, queries: list[Tensor]) -> float:
    """Share of the exact best k that a search finds."""
    hits = total = 0
    for part in queries:
        best = exact_search(items)(part)
        hits += int((search(part)[:, :, None] == best[:, None]).any(dim=1).sum())
        total += best.numel()
    return hits / total


def measure_index(tuning: list[Tensor], queries: list[Tensor], items: Tensor) -> tuple[ItemIndex, dict[str, float]]:
    """Build the index, search as far as the tuning queries need, and measure it on the others."""
    started = time.perf_counter()
    index = build_index.build_index(torch.cat(tuning), items, CANDIDATES)
    seconds = time.perf_counter() - started
    search, index.probes = index_search(index, items), 1
    while recall(search, items, tuning) < RECALL and index.probes < MAX_PROBES:
        index.probes *= 2
    return index, call_times(search, queries * 4) | {
        "recall@20": round(recall(search, items, queries), 4),
        "probes": index.probes,
        "index_mb": round(index.num_bytes / 1e6, 1),
        "build_seconds": round(seconds, 1),
    }


def request_batches(trained: _synthetic.TrainedModel, cases: EvaluationCases) -> list[list[dict]]:
    """Batches of 8 requests with their histories, for the cases."""
    log, names = trained.features.log, trained.features.vocabulary
    requests = []
    for user, end, moment in zip(cases.user, cases.end, cases.time, strict=True):
        history = [
            {"item_id": names.id(log.items[row]), "event_time": to_iso(int(log.times[row]))}
            for row in range(log.offsets[user], end)
        ]
        requests.append({"history": history, "k": K, "time": to_iso(int(moment))})
    return [requests[begin : begin + BATCH_ROWS] for begin in range(0, len(requests) - BATCH_ROWS + 1, BATCH_ROWS)]


def measure(trained: _synthetic.TrainedModel, num_items: int, cases: EvaluationCases) -> dict[str, object]:
    """All figures of one catalog size."""
    recommender = Recommender(_synthetic.grow(trained, num_items))
    model, snapshot, log = recommender.model, recommender.artifact.trends, trained.features.log
    log_trends = recommender.trend_inputs(snapshot)[1]
    assert log_trends is not None
    no_trends = TrendSnapshot(np.zeros((1, len(snapshot.channels)), np.float32), snapshot.channels, snapshot.time_us)
    moments = np.full(len(cases), snapshot.time_us)
    queries = []
    for _, batch in batches(log, cases, no_trends, model.channels, moments, BATCH_ROWS, model.max_history):
        batch.log_trends = log_trends
        factors, _ = model.factored(batch)
        queries.append(factors.query_vectors())
    items = factors.item_vectors(log_trends[0])
    tuning, test, requests = queries[::2], queries[1::2], request_batches(trained, cases)[1::2]
    exact = call_times(exact_search(items), test * 2)
    index, figures = measure_index(tuning, test, items)
    exact_answers = call_times(recommender.recommend, requests)
    recommender.retrieval = Retrieval(recommender, index, torch.empty(0, dtype=torch.int64))
    return {
        "exact": exact,
        "index": figures,
        "answers": {"exact": exact_answers, "index": call_times(recommender.recommend, requests * 4)},
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--items",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="catalog sizes (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=600, help="of training (default: %(default)s)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    trained = _synthetic.train(10_000, 12_000, arguments.steps, WIDTH)
    features = trained.features
    all_cases = next_item_cases(features.log, features.cut_us, features.description["until_us"])
    cases = validation.sample(all_cases, 1024, 0)
    sizes = {}
    with torch.inference_mode():
        for num_items in sorted(arguments.items):
            sizes[str(num_items)] = measure(trained, num_items, cases)
            for name, figures in sizes[str(num_items)].items():
                print(f"measured {num_items:,} items: {name} {figures}", flush=True)
    path = write("index", {"width": WIDTH, "candidates": CANDIDATES, "batch": BATCH_ROWS, "items": sizes})
    print(f"measured the index; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
