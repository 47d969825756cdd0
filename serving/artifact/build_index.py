"""Build an artifact's index at export, and measure how often it finds what exact scoring finds.

Legend: Q queries, N item rows, D width of the model's vectors, E width of the index's vectors, k list length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from config import params
from config.command import UserError
from data.columns import DAY
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, batches, next_item_cases
from features.trends import TrendSnapshot
from features.vocabulary import PAD
from serving.worker.index import ItemIndex, Retrieval
from serving.worker.recommender import BATCH_ROWS, Recommender
from training import validation
from training.models.base import EXCLUDED, Model

RECALL_K = 20
TREND_AGES_DAYS = (1, 7)  # recall is also measured with older trends: it shows how the index ages
POINTS_PER_LIST = 64  # used by k-means: more makes it slower, and the lists no better
LANES = 16  # numbers that FAISS processes at once in 8-bit vectors, if their width is a multiple of it
RIDGE = 1e-3  # of the mean square, so that a direction without queries keeps some weight


@dataclass
class IndexQueries:
    """Batches of BATCH_ROWS queries as the worker makes them, and the exact answers."""

    batches: list[Batch]
    best: list[Tensor]  # (B, k) item rows, PAD if fewer may be recommended
    trends: TrendSnapshot

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def half(self, which: int) -> IndexQueries:
        """Every second batch: one half chooses how far to search, the other measures. A single batch does both."""
        if len(self.batches) < 2:
            return self
        return IndexQueries(self.batches[which::2], self.best[which::2], self.trends)


def needs_index(settings: params.Index, model: Model, num_items: int) -> bool:
    """Whether an artifact gets an index.

    Raises:
        UserError: the settings ask for one, but the model's scores are not products of vectors.
    """
    if settings.kind == "faiss" and not model.searchable:
        raise UserError(
            f"serve.index.kind is faiss, but the scores of {model.name} are not products of vectors; set auto or exact"
        )
    return model.searchable and (settings.kind == "faiss" or (settings.kind == "auto" and num_items > settings.above))


def add_index(folder: Path, recommender: Recommender, features: Features, settings: params.Params) -> dict:
    """Write the index into an artifact folder; what the manifest states of the index.

    The number of probed lists is doubled until half of the queries reach `serve.index.recall`, or all lists are probed.
    The other half measures the recall.
    """
    wanted = settings.serve.index
    queries = make_queries(recommender, features, settings, 0)
    with torch.inference_mode():
        factored = [recommender.model.factored(batch) for batch in queries.batches]
        factors, trends = factored[0]
        vectors = torch.cat([factors.query_vectors() for factors, _ in factored])
        index = build_index(vectors, factors.item_vectors(trends[0]), wanted.candidates)
    retrieval = Retrieval(recommender, index, recommender.always)
    while index.probes < index.num_lists and recall(retrieval, queries.half(0), exact_fallback=False) < wanted.recall:
        index.probes = min(2 * index.probes, index.num_lists)
    index.save(folder)
    aged = {
        f"{days}d": recall(retrieval, make_queries(recommender, features, settings, days)) for days in TREND_AGES_DAYS
    }
    return {
        "kind": "faiss",
        "candidates": wanted.candidates,
        "probes": index.probes,
        "lists": index.num_lists,
        f"recall@{RECALL_K}": recall(retrieval, queries.half(1)),
        f"recall@{RECALL_K}_of_older_trends": aged,
        "requests": len(queries.half(1)),
    }


def build_index(queries_QD: Tensor, items_ND: Tensor, candidates: int) -> ItemIndex:
    """Inverted lists over the items' vectors, transformed so that distance means difference in score.

    Let S = L L' be the second moments of the queries. Items become x L and queries q inv(L)': the products stay the same,
    and the squared distance of two items is the mean squared difference of their scores. So k-means puts items together
    that queries score alike. Lists are probed by what their best item may score: the product of the centroid, plus what
    the farthest item adds if it lies one standard deviation of random directions toward the query. Vectors are stored
    with 8 bits per number, because candidates are scored exactly.
    """
    import faiss

    faiss.omp_set_num_threads(1)  # the same lists on every machine
    turned_NE, basis_DE = whiten(queries_QD, items_ND)
    num_rows, width = turned_NE.shape
    num_lists = max(1, min(2 ** round(math.log2(4 * num_rows**0.5)), num_rows // POINTS_PER_LIST))
    centroids = faiss.IndexFlatL2(width)
    lists = faiss.IndexIVFScalarQuantizer(
        centroids, width, num_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    lists.cp.max_points_per_centroid = POINTS_PER_LIST
    points = turned_NE.numpy()
    lists.train(points[1:])
    lists.add_with_ids(points[1:], np.arange(1, num_rows))  # row 0 is PAD
    by_product = faiss.IndexFlatIP(width)
    by_product.add(centroids_with_reach(points[1:], centroids).numpy())
    lists.quantizer = by_product
    lists.own_fields = False
    index = ItemIndex(lists, basis_DE, candidates, probes=1)
    index.keep = centroids, by_product  # FAISS only stores their addresses
    return index


def whiten(queries_QD: Tensor, items_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Items (N, E) in the basis in which lists are made, and the (D, E) matrix that transforms queries into it.

    Items are centered, which subtracts the same from all products of a query. E is D padded with zeros to whole lanes, by
    at least one zero (see `centroids_with_reach`).
    """
    moments = queries_QD.T.double() @ queries_QD.double() / len(queries_QD)
    moments += RIDGE * moments.diagonal().mean() * torch.eye(len(moments))
    lower = torch.linalg.cholesky(moments)
    centered = items_ND.double() - items_ND[1:].double().mean(dim=0)
    padding = (0, -(len(moments) + 1) % LANES + 1)
    turned, basis = (centered @ lower).float(), torch.linalg.inv(lower).T.float()
    return functional.pad(turned, padding).contiguous(), functional.pad(basis, padding).contiguous()


def centroids_with_reach(points: np.ndarray, centroids) -> Tensor:
    """(lists, E) centroids whose last number, 0 in items, is the distance of the farthest item of the list."""
    _, nearest = centroids.search(points, 1)
    vectors = torch.from_numpy(centroids.reconstruct_n(0, centroids.ntotal))
    rows = torch.from_numpy(nearest[:, 0])
    distances = (torch.from_numpy(points) - vectors[rows]).norm(dim=1)
    vectors[:, -1] = torch.zeros(len(vectors)).scatter_reduce(0, rows, distances, "amax")
    return vectors


@torch.inference_mode()
def make_queries(recommender: Recommender, features: Features, settings: params.Params, days: int) -> IndexQueries:
    """The cases of validation, one event ahead in the window before the cut, with trends of `days` before the cut.

    Raises:
        UserError: nobody acts in that window.
    """
    start = features.cut_us - features.description["horizon_days"] * DAY
    cases = next_item_cases(features.past, start, features.cut_us)
    if not len(cases):
        raise UserError(
            "serve.index: nobody acts in the window before the cut, so recall cannot be measured; set kind to exact"
        )
    cases = validation.sample(cases, settings.serve.index.requests, settings.seed)
    trends, channels = recommender.artifact.trends, features.description["channels"]
    if days:
        time_us = features.cut_us - days * DAY
        trends = TrendSnapshot(features.trend_log().at(np.array([time_us]), channels)[0], channels, time_us)
    queries = IndexQueries([], [], trends)
    for batch in _batches(recommender, features, cases, trends):
        scores, rows = recommender.scores(batch).topk(min(RECALL_K, len(recommender.vocabulary) - 1), dim=1)
        queries.batches.append(batch)
        queries.best.append(rows.masked_fill(scores == EXCLUDED, PAD))
    return queries


@torch.inference_mode()
def recall(retrieval: Retrieval, queries: IndexQueries, exact_fallback: bool = True) -> float:
    """Share of the exact best 20 that are among the 20 served, which the worker finds search by search.

    Args:
        exact_fallback: a query for which every search finds too few items is answered exactly, as the worker does; False
            answers it with nothing, so that a search that is too short shows in the recall.
    """
    hits = total = 0
    for batch, best in zip(queries.batches, queries.best, strict=True):
        served = best.clone() if exact_fallback else torch.zeros_like(best)
        waiting = list(range(len(batch)))
        for count in retrieval.index.candidate_counts:
            scored = retrieval.shortlist(batch, waiting, queries.trends, count)
            complete = [row for row in waiting if scored.has_best(row, served.shape[1])]
            if complete:
                served[complete], _ = scored.best(complete, served.shape[1])
            waiting = [row for row in waiting if row not in complete]
            if not waiting:
                break
        is_item = best != PAD
        hits += int(((served[:, :, None] == best[:, None, :]).any(dim=1) & is_item).sum())
        total += int(is_item.sum())
    return hits / max(total, 1)


def _batches(
    recommender: Recommender, features: Features, cases: EvaluationCases, trends: TrendSnapshot
) -> Iterator[Batch]:
    """Full batches if there are enough cases; all share one copy of the trends."""
    model = recommender.model
    kept = cases.take(np.arange(len(cases) - len(cases) % BATCH_ROWS)) if len(cases) >= BATCH_ROWS else cases
    values, logs = recommender.trend_inputs(trends)
    empty = TrendSnapshot(np.zeros((1, len(trends.channels)), np.float32), trends.channels, trends.time_us)
    times = np.full(len(kept), trends.time_us)
    for _, batch in batches(features.past, kept, empty, model.channels, times, BATCH_ROWS, model.max_history):
        yield replace(batch, trends=torch.from_numpy(values), log_trends=logs)
