"""Finding the best 20 of 10k, 100k and 1M items: exact scoring against FAISS, on vectors of a trained model.

Each works on batches of 8 questions, as a worker does, on one thread. `recall` is of the exact best 20 over questions
that neither built nor tuned the index. `answers` are whole: parsed requests to what the handler sends.

Legend: Q questions, N item rows, D width, K candidates, k list length.
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
from serving.artifact import index_build
from serving.worker.index import ItemIndex, Retrieval
from serving.worker.recommender import BATCH_ROWS, Recommender

K, CANDIDATES, RECALL, WIDTH = 20, 512, 0.995, 64
Find = Callable[[Tensor], Tensor]  # (8, D) questions to (8, K) candidates


def ivf(asked: Tensor, offered: Tensor) -> tuple[Callable[[int], Find], int]:
    """Ours: inverted lists of turned vectors in 8 bits a number; how far to search is the number of lists."""
    built = index_build.build(asked, offered, CANDIDATES)

    def reach(probes: int) -> Find:
        built.probes = probes
        return lambda questions: built.search(questions, CANDIDATES)

    return reach, built.num_bytes


def ivf_plain(asked: Tensor, offered: Tensor) -> tuple[Callable[[int], Find], int]:
    """The same without turning: distance is of the vectors as the model has them."""
    built = index_build.build(torch.eye(asked.shape[1]), offered, CANDIDATES)

    def reach(probes: int) -> Find:
        built.probes = probes
        return lambda questions: built.search(questions, CANDIDATES)

    return reach, built.num_bytes


def hnsw(asked: Tensor, offered: Tensor) -> tuple[Callable[[int], Find], int]:
    """A graph of 32 neighbours, by distance: one more number makes all items equally long (Bachrach et al. 2014)."""
    turned, basis = index_build.turn(asked, offered)
    length = turned.square().sum(dim=1)
    last = (length.max() - length).clamp(min=0).sqrt()[:, None]
    points = torch.cat([turned, last], dim=1)[1:].numpy()
    graph = faiss.IndexHNSWFlat(points.shape[1], 32)
    graph.hnsw.efConstruction = 80
    graph.add(points)

    def reach(effort: int) -> Find:
        graph.hnsw.efSearch = max(CANDIDATES, 64 * effort)

        def find(questions: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(questions @ basis, (0, 1)).contiguous().numpy()
            return torch.from_numpy(graph.search(padded, CANDIDATES)[1]) + 1

        return find

    return reach, len(faiss.serialize_index(graph))


VARIANTS = {"ivf": ivf, "ivf_plain": ivf_plain, "hnsw": hnsw}


def rescored(find: Find, offered: Tensor) -> Find:
    """(8, 20) the best of the candidates, by exact products."""

    def best(questions: Tensor) -> Tensor:
        rows = find(questions)
        scores = torch.einsum("pmd,pd->pm", torch.nn.functional.embedding(rows, offered), questions)
        return rows.gather(1, scores.masked_fill(rows == 0, -torch.inf).topk(K, dim=1).indices)

    return best


def exact(offered: Tensor) -> Find:
    """(8, 20) by the product with every item."""
    return lambda questions: (questions @ offered[1:].T).topk(K, dim=1).indices + 1


def milliseconds(work: Callable, parts: list) -> dict[str, float]:
    """p50 and p99 of a call for each of the parts, after a warm-up."""
    took = []
    for part in [*parts[:4], *parts]:
        begun = time.perf_counter()
        work(part)
        took.append(1e3 * (time.perf_counter() - begun))
    cuts = statistics.quantiles(took[4:], n=100)
    return {"p50_ms": round(statistics.median(took[4:]), 3), "p99_ms": round(cuts[98], 3)}


def share(found: list[Tensor], best: list[Tensor]) -> float:
    hits = [(one[:, :, None] == other[:, None]).any(dim=1).sum() for one, other in zip(found, best, strict=True)]
    return float(sum(hits)) / sum(one.numel() for one in best)


def measured(name: str, tuned: list[Tensor], asked: list[Tensor], offered: Tensor) -> dict:
    """A variant that searches as far as half of the questions need, measured on the other half."""
    begun = time.perf_counter()
    reach, size = VARIANTS[name](torch.cat(tuned), offered)
    seconds = time.perf_counter() - begun
    wanted = [exact(offered)(one) for one in tuned]
    effort = 1
    while share([rescored(reach(effort), offered)(one) for one in tuned], wanted) < RECALL and effort < 1024:
        effort *= 2
    find = rescored(reach(effort), offered)
    recall = share([find(one) for one in asked], [exact(offered)(one) for one in asked])
    return milliseconds(find, asked * 4) | {
        "recall@20": round(recall, 4),
        "effort": effort,
        "index_mb": round(size / 1e6, 1),
        "build_seconds": round(seconds, 1),
    }


def bodies(trained: _synthetic.Trained, cases: EvaluationCases) -> list[list[dict]]:
    """Batches of 8 requests that state their histories, for the cases."""
    log, names = trained.features.log, trained.features.vocabulary
    asked = []
    for user, end, moment in zip(cases.user, cases.end, cases.time, strict=True):
        events = range(log.offsets[user], end)
        past = [{"item_id": names.id(log.items[at]), "event_time": to_iso(int(log.times[at]))} for at in events]
        asked.append({"history": past, "k": K, "time": to_iso(int(moment))})
    return [asked[begin : begin + BATCH_ROWS] for begin in range(0, len(asked) - BATCH_ROWS + 1, BATCH_ROWS)]


def answers(recommender: Recommender, index: ItemIndex | None, parts: list[list[dict]]) -> dict[str, float]:
    """Whole answers, through an index or exact."""
    recommender.retrieval = None if index is None else Retrieval(recommender, index, torch.empty(0, dtype=torch.int64))
    return milliseconds(recommender.recommend, parts)


def at(trained: _synthetic.Trained, items: int, cases: EvaluationCases, variants: list[str]) -> dict:
    """All figures of one size."""
    recommender = Recommender(_synthetic.grown(trained, items))
    model, snapshot = recommender.model, recommender.artifact.trends
    logs = recommender.trend_inputs(snapshot)[1]
    assert logs is not None
    nothing = TrendSnapshot(np.zeros((1, len(snapshot.channels)), np.float32), snapshot.channels, snapshot.time_us)
    moments = np.full(len(cases), snapshot.time_us)
    log = trained.features.log
    asked = []
    for _, batch in batches(log, cases, nothing, model.channels, moments, BATCH_ROWS, model.max_history):
        batch.log_trends = logs
        factors, _ = model.factored(batch)
        asked.append(factors.asked())
    offered = factors.offered(logs[0])
    parts = bodies(trained, cases)[1::2]
    found = {"exact": milliseconds(exact(offered), asked[1::2] * 2)}
    found |= {name: measured(name, asked[::2], asked[1::2], offered) for name in variants}
    built = index_build.build(torch.cat(asked[::2]), offered, CANDIDATES)
    built.probes = found["ivf"]["effort"]
    found["answers"] = {"exact": answers(recommender, None, parts), "ivf": answers(recommender, built, parts * 4)}
    found["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="default: %(default)s"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--steps", type=int, default=600, help="of training; default: %(default)s")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    trained = _synthetic.train(10_000, 12_000, arguments.steps, WIDTH)
    features = trained.features
    every = next_item_cases(features.log, features.cut_us, features.description["until_us"])
    cases = index_build.validate.sample(every, 1024, 0)
    found = {}
    with torch.inference_mode():
        for items in sorted(arguments.items):
            found[str(items)] = at(trained, items, cases, arguments.variants)
            for name, figures in found[str(items)].items():
                print(f"index: {items:,} items: {name}: {figures}", flush=True)
    print(f"-> {write('index', {'width': WIDTH, 'candidates': CANDIDATES, 'batch': BATCH_ROWS, 'items': found})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
