"""Build an artifact's index, and measure how often it finds what exact scoring finds. At export; not on the worker.

Legend: Q questions, N item rows, D width of what is multiplied, E of what is held, k list length.
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

MEASURED_K = 20
AGES_DAYS = (1, 7)  # of trends at which recall is measured too: how an index bears that they move on
POINTS_PER_LIST = 64  # that k-means looks at: more makes it slower, and the lists no better
LANES = 16  # numbers that FAISS takes at once from vectors in 8 bits, if their width is a multiple
RIDGE = 1e-3  # of the mean square, so that a direction in which nobody asked stays a direction


@dataclass
class Questions:
    """Batches of ROWS as the worker makes them, and what exact scoring answers to each."""

    batches: list[Batch]
    best: list[Tensor]  # (B, k) item rows, PAD where fewer may be recommended
    trends: TrendSnapshot

    def __len__(self) -> int:
        return sum(len(batch) for batch in self.batches)

    def half(self, which: int) -> Questions:
        """Every second batch: one half chooses how far to search, the other measures; of a single one both do."""
        if len(self.batches) < 2:
            return self
        return Questions(self.batches[which::2], self.best[which::2], self.trends)


def wanted(settings: params.Index, model: Model, num_items: int) -> bool:
    """Whether an artifact gets an index.

    Raises:
        UserError: it is asked for of a model whose scores are no products.
    """
    if settings.kind == "faiss" and not model.searchable:
        raise UserError(
            f"serve.index.kind is faiss, but scores of {model.name} are no products; auto or exact serves it"
        )
    return model.searchable and (settings.kind == "faiss" or (settings.kind == "auto" and num_items > settings.above))


def add(folder: Path, recommender: Recommender, features: Features, settings: params.Params) -> dict:
    """Write the index of an artifact that is whole but for it; what the manifest says of it.

    Lists are probed, twice as many each time, until half of the questions find `serve.index.recall` of what exact
    scoring finds, or all lists are probed. The other half measures.
    """
    wish = settings.serve.index
    asked = questions(recommender, features, settings, 0)
    index = of_model(recommender.model, asked.batches, wish.candidates)
    while True:
        retrieval = Retrieval(recommender, index, recommender.always)
        if recall(retrieval, asked.half(0), or_exact=False) >= wish.recall or index.probes >= index.num_lists:
            break
        index.probes = min(2 * index.probes, index.num_lists)
    index.save(folder)
    aged = {f"{days}d": recall(retrieval, questions(recommender, features, settings, days)) for days in AGES_DAYS}
    return {
        "kind": "faiss",
        "candidates": wish.candidates,
        "probes": index.probes,
        "lists": index.num_lists,
        f"recall@{MEASURED_K}": recall(retrieval, asked.half(1)),
        f"recall@{MEASURED_K}_of_older_trends": aged,
        "requests": len(asked.half(1)),
    }


@torch.inference_mode()
def of_model(model: Model, asked: list[Batch], candidates: int) -> ItemIndex:
    """The index of a model's items, with the trends that the batches hold."""
    found = [model.factored(batch) for batch in asked]
    factors, trends = found[0]
    return build(
        torch.cat([factors.query_vectors() for factors, _ in found]), factors.item_vectors(trends[0]), candidates
    )


def build(asked_QD: Tensor, offered_ND: Tensor, candidates: int) -> ItemIndex:
    """Inverted lists over the items' vectors, biases and trends, turned so that distance means difference in score.

    With S the second moments of the questions and S = L L', items are x L and questions q inv(L)': products stay
    what they were, and the squared distance of two items is the mean squared difference of their scores. So k-means
    puts together what questions like together. Lists are probed by what their best item may be worth: the product of
    the centre, and what the farthest item adds if it lies a standard deviation of random directions the right way.
    Vectors are held in 8 bits a number, for candidates are scored exactly.
    """
    import faiss

    faiss.omp_set_num_threads(1)  # the same lists on every machine
    turned, basis = turn(asked_QD, offered_ND)
    size, width = turned.shape
    num_lists = max(1, min(2 ** round(math.log2(4 * size**0.5)), size // POINTS_PER_LIST))
    centres = faiss.IndexFlatL2(width)
    lists = faiss.IndexIVFScalarQuantizer(
        centres, width, num_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    lists.cp.max_points_per_centroid = POINTS_PER_LIST
    points = turned.numpy()
    lists.train(points[1:])
    lists.add_with_ids(points[1:], np.arange(1, size))  # row 0 is PAD
    by_product = faiss.IndexFlatIP(width)
    by_product.add(with_reach(points[1:], centres).numpy())
    lists.quantizer = by_product
    lists.own_fields = False
    index = ItemIndex(lists, basis, candidates, probes=1)
    index.keep = centres, by_product  # FAISS holds them by address alone
    return index


def turn(asked_QD: Tensor, offered_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Items (N, E) in the basis in which lists are made, and the (D, E) that turns questions into it.

    Items are centred, which takes the same from all products of a question. E is D, filled up with zeros to whole lanes,
    at least one of them: see `with_reach`.
    """
    moments = asked_QD.T.double() @ asked_QD.double() / len(asked_QD)
    moments += RIDGE * moments.diagonal().mean() * torch.eye(len(moments))
    lower = torch.linalg.cholesky(moments)
    centred = offered_ND.double() - offered_ND[1:].double().mean(dim=0)
    blank = (0, -(len(moments) + 1) % LANES + 1)
    turned, basis = (centred @ lower).float(), torch.linalg.inv(lower).T.float()
    return functional.pad(turned, blank).contiguous(), functional.pad(basis, blank).contiguous()


def with_reach(points: np.ndarray, centres) -> Tensor:
    """(lists, E) centres whose last number, 0 in items, is how far the farthest item of the list lies from it."""
    _, nearest = centres.search(points, 1)
    found = torch.from_numpy(centres.reconstruct_n(0, centres.ntotal))
    rows = torch.from_numpy(nearest[:, 0])
    far = (torch.from_numpy(points) - found[rows]).norm(dim=1)
    found[:, -1] = torch.zeros(len(found)).scatter_reduce(0, rows, far, "amax")
    return found


def questions(recommender: Recommender, features: Features, settings: params.Params, days: int) -> Questions:
    """Cases of `next_item` before the cut, a window long, with the trends of so many days before it: what validation asks.

    Raises:
        UserError: nobody acts in that window.
    """
    before = features.cut_us - features.description["horizon_days"] * DAY
    every = next_item_cases(features.past, before, features.cut_us)
    if not len(every):
        raise UserError(
            "serve.index: nobody acts in the window before the cut, so no recall can be measured; set exact"
        )
    every = validation.sample(every, settings.serve.index.requests, settings.seed)
    trends = _of_days_ago(features, days) if days else recommender.artifact.trends
    return exact(recommender, list(_batches(recommender, features, every, trends)), trends)


def _of_days_ago(features: Features, days: int) -> TrendSnapshot:
    moment, channels = features.cut_us - days * DAY, features.description["channels"]
    return TrendSnapshot(features.trend_log().at(np.array([moment]), channels)[0], channels, moment)


def _batches(
    recommender: Recommender, features: Features, every: EvaluationCases, trends: TrendSnapshot
) -> Iterator[Batch]:
    """Full ones, if there are as many cases; all share one copy of the trends."""
    model = recommender.model
    kept = every.take(np.arange(len(every) - len(every) % BATCH_ROWS)) if len(every) >= BATCH_ROWS else every
    values, logs = recommender.trend_inputs(trends)
    nothing = TrendSnapshot(np.zeros((1, len(trends.channels)), np.float32), trends.channels, trends.time_us)
    at = np.full(len(kept), trends.time_us)
    for _, batch in batches(features.past, kept, nothing, model.channels, at, BATCH_ROWS, model.max_history):
        yield replace(batch, trends=torch.from_numpy(values), log_trends=logs)


@torch.inference_mode()
def exact(recommender: Recommender, asked: list[Batch], trends: TrendSnapshot) -> Questions:
    """The questions with their exact answers."""
    best = []
    for batch in asked:
        scores, rows = recommender.scores(batch).topk(min(MEASURED_K, len(recommender.vocabulary) - 1), dim=1)
        best.append(rows.masked_fill(scores == EXCLUDED, PAD))
    return Questions(asked, best, trends)


@torch.inference_mode()
def recall(retrieval: Retrieval, asked: Questions, or_exact: bool = True) -> float:
    """Share of the exact best 20 that are among the 20 that are served.

    Args:
        or_exact: whoever sees too little in every look is answered exactly, as the worker does; if not, with nothing,
            so that a search that is too short shows.
    """
    hits = total = 0
    for batch, best in zip(asked.batches, asked.best, strict=True):
        found, real = best.clone() if or_exact else torch.zeros_like(best), best != PAD
        _look(retrieval, batch, asked.trends, found)
        hits += int(((found[:, :, None] == best[:, None, :]).any(dim=1) & real).sum())
        total += int(real.sum())
    return hits / max(total, 1)


def _look(retrieval: Retrieval, batch: Batch, trends: TrendSnapshot, found: Tensor) -> None:
    """Write (B, k) item rows as the worker finds them, look by look; not of those who see too little in each."""
    waiting = list(range(len(batch)))
    for count in retrieval.candidate_counts:
        scored = retrieval.shortlist(batch, waiting, trends, count)
        held = [row for row in waiting if scored.has_best(row, found.shape[1])]
        if held:
            found[held], _ = scored.best(held, found.shape[1])
        waiting = [row for row in waiting if row not in held]
        if not waiting:
            break
