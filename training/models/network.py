"""What the networks share: item content, the asker's circumstances, and the contract with the trainer.

Legend: B batch, Q questions, P of them, N item rows, M candidates, V content width, D embedding width, C trend channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from features.encode import Batch
from training.models.base import Factors, Model, ModelError, Search, Sizes
from training.models.history_encoder import CausalBlock
from training.models.query import NUM_BUCKETS, Query, count_bucket, log_trends, time_bucket


class _AddTrends(torch.autograd.Function):
    """scores + weights @ trends[moment], moment by moment: (Q, C, N) never exists."""

    @staticmethod
    def forward(ctx, scores: Tensor, weights: Tensor, trends: Tensor, moment: Tensor) -> Tensor:
        order = torch.argsort(moment, stable=True)
        moments, counts = torch.unique_consecutive(moment[order], return_counts=True)
        ctx.groups = list(zip(moments.tolist(), order.split(counts.tolist()), strict=True))
        ctx.save_for_backward(weights, trends)
        total = scores.clone()
        if bool((moment[1:] >= moment[:-1]).all()):  # as batches of cases are: each group is one piece
            pieces = zip(ctx.groups, total.split(counts.tolist()), weights.split(counts.tolist()), strict=True)
            for (at, _), piece, of_piece in pieces:
                piece.addmm_(of_piece, trends[at].to(weights.dtype))
            return total
        for at, rows in ctx.groups:
            total.index_add_(0, rows, weights[rows] @ trends[at].to(weights.dtype))
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weights, trends = ctx.saved_tensors
        of_weights = torch.empty_like(weights)
        for at, rows in ctx.groups:
            of_weights[rows] = gradient[rows] @ trends[at].to(weights.dtype).T
        return gradient, of_weights, None, None


def add_trends(scores: Tensor, weights: Tensor, trends: Tensor, moment: Tensor) -> Tensor:
    """(Q, N) scores + for each question its (C,) weights times the (C, N) trends of its moment.

    Args:
        scores: (Q, N).
        weights: (Q, C).
        trends: (T, C, N), without gradient.
        moment: (Q,) rows of `trends`.
    """
    if len(trends) == 1:
        return torch.addmm(scores, weights, trends[0].to(weights.dtype))
    return _AddTrends.apply(scores, weights, trends, moment)


def pair_trends(weights: Tensor, trends: Tensor, moment: Tensor, candidates: Tensor) -> Tensor:
    """(Q, M): the same term for each question's own (Q, M) candidates."""
    if len(trends) == 1:  # as in serving; reads each candidate's channels in one piece
        at_candidates = trends[0].T.index_select(0, candidates.reshape(-1)).view(*candidates.shape, -1)  # (Q, M, C)
    else:
        at_candidates = trends.transpose(1, 2)[moment[:, None], candidates]
    return torch.einsum("qmc,qc->qm", at_candidates.to(weights.dtype), weights)


class Graph:
    """Records a function once for each shape of its first tensor, and runs the record from then on.

    The record holds every branch as it was taken: the function may branch on shapes of its tensors, never on what they
    hold. Results are those of the function to the bit.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._records: dict[torch.Size, Callable[..., Any]] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        shape = tensors[0].shape
        if shape not in self._records:
            result = self._function(*tensors)  # first without recording: what it keeps must not stand in the record
            self._records[shape] = _record(self._function, tensors)
            return result
        return self._records[shape](*tensors)


def _record(function: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, and about branches on shapes
        return torch.jit.trace(function, tensors, check_trace=False)


FEW = 16  # requests at once, up to which Python takes longer than the arithmetic


class LearnedModel(Model):
    """A network. No user id: the user is a history, traits and the circumstances of the request.

    The item features (N, V) are a buffer, so the weights carry them; `set_content` fills it before training.
    """

    learned = True
    is_product: ClassVar[bool] = False  # whether scores are products, as `factors` gives them
    content: Tensor

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        self._graphs: dict[str, Graph] = {}  # by the name of the method
        self.max_history = params["max_history"]
        self.channels = tuple(params["channels"])
        if absent := [channel for channel in self.channels if channel not in sizes.channels]:
            raise ModelError(
                f"{self.name}: channels name {', '.join(absent)}; featurize.trends gives {', '.join(sizes.channels)}"
            )
        if params["embedding_dim"] % params["num_heads"]:
            raise ModelError(
                f"{self.name}: embedding_dim = {params['embedding_dim']} is not a multiple of num_heads = {params['num_heads']}"
            )
        self.register_buffer("content", torch.zeros(sizes.num_items, sizes.content_width))

    def set_content(self, item_features: np.ndarray) -> None:
        """Take the (N, V) item features."""
        self.content.copy_(torch.from_numpy(item_features))

    def freeze(self) -> None:
        methods = [self.score_all, *([self.factors] if self.is_product else [])]
        self._graphs = {method.__name__: Graph(_OfTensors(self, method)) for method in methods}
        for module in self.modules():
            if isinstance(module, ItemTable):
                module.freeze(self.content)
            elif isinstance(module, Circumstances | CausalBlock):
                module.freeze()

    def score_all(self, query: Query) -> Tensor:
        """(Q, N) scores of the whole catalogue; column PAD means nothing."""
        user, item, bias, weights = self.factors(query)
        return add_trends(torch.addmm(bias, user, item.T), weights, query.trends, query.moment)

    def factors(self, query: Query) -> Factors:
        """The scores of the whole catalogue as products, of a model whose scores are; the loss `full_softmax` asks them."""
        raise NotImplementedError

    def score_shared(self, query: Query, candidates: Tensor) -> Tensor:
        """(Q, M) scores of the same (M,) candidates for every question; what the loss `in_batch` asks."""
        raise NotImplementedError

    def score_pairs(self, query: Query, question: Tensor, candidates: Tensor) -> Tensor:
        """(P, M) scores of the (P, M) candidates of (P,) questions; what losses over negatives ask."""
        return _of_pairs(self.factors(query), query.trends, query.moment, question, candidates)

    def scores(self, batch: Batch) -> Tensor:
        """(B, N). Histories are read `max_history` wide however short they are: a matrix product of another shape may
        add up in another order, and then an answer would depend on the batch that it is given in."""
        return self._said(self.score_all, batch)

    def _said(self, of_query: Callable[[Query], Any], batch: Batch) -> Any:
        """What a method says of a batch: once frozen, and of few requests, by its recorded graph."""
        graph = self._graphs.get(of_query.__name__)
        if graph is None or batch.log_trends is None or len(batch) > FEW:
            return of_query(self._query(batch))
        read = self._as_wide(batch)  # before, or each length of history would have a record of its own
        return graph(*(getattr(read, part.name) for part in fields(Batch)))

    def _query(self, batch: Batch) -> Query:
        return Query.of(self._as_wide(batch))

    def _as_wide(self, batch: Batch) -> Batch:
        """The batch with histories `max_history` wide."""
        assert self.max_history is not None
        short = self.max_history - batch.items.shape[1]
        if not short:
            return batch
        items, times = (functional.pad(part, (short, 0)) for part in (batch.items, batch.item_times))
        return replace(batch, items=items, item_times=times)

    def scores_of(self, batch: Batch, rows: Tensor) -> Tensor:
        return self.score_pairs(self._query(batch), torch.arange(len(batch), device=rows.device), rows)

    @property
    def searchable(self) -> bool:
        return self.is_product

    def factored(self, batch: Batch) -> tuple[Factors, Tensor]:
        trends = log_trends(batch.trends) if batch.log_trends is None else batch.log_trends
        return Factors(*self._said(self.factors, batch)), trends

    def shortlist(self, batch: Batch, search: Search) -> tuple[Tensor, Tensor]:
        factors, trends = self.factored(batch)
        rows = search(factors)
        return rows, _of_pairs(factors, trends, batch.moment, torch.arange(len(batch), device=rows.device), rows)

    def answers_cold(self) -> bool:
        return bool(self.sizes.trait_sizes)


class _OfTensors(nn.Module):
    """What a method says of the tensors of a Batch; a module, since only of its own parts may a record take weights."""

    def __init__(self, model: LearnedModel, of_query: Callable[[Query], Any]) -> None:
        super().__init__()
        self.model, self.of_query = model, of_query

    def forward(self, *tensors: Tensor) -> Any:
        return self.of_query(self.model._query(Batch(*tensors)))


def _of_pairs(factors: Factors, trends: Tensor, moment: Tensor, question: Tensor, candidates: Tensor) -> Tensor:
    """(P, M) scores of the (P, M) candidates of (P,) questions."""
    user, item, bias, weights = factors
    scores = torch.einsum("pmd,pd->pm", functional.embedding(candidates, item), user[question])
    return scores + bias[candidates] + pair_trends(weights[question], trends, moment[question], candidates)


class Circumstances(nn.Module):
    """(Q, D) sum of embeddings of what is known of a question besides the events' items.

    Time since the last event, number of events, hour, weekday, traits, request context.
    """

    def __init__(self, sizes: Sizes, embedding_dim: int) -> None:
        super().__init__()
        tables = [NUM_BUCKETS, NUM_BUCKETS, 24, 7, *sizes.trait_sizes, *sizes.context_sizes]
        self.tables = nn.ModuleList(_table(rows, embedding_dim) for rows in tables)
        self._frozen: tuple[Tensor, Tensor] | None = None

    def forward(self, query: Query) -> Tensor:
        rows = [time_bucket(query.since), count_bucket(query.length), query.hour, query.weekday]
        rows += [*query.traits.T, *query.context.T]
        table, begin = self._frozen or self._as_one()
        return functional.embedding(torch.stack(rows, dim=1) + begin, table).sum(dim=1)

    def freeze(self) -> None:
        """Keep the tables put together, which no request changes."""
        self._frozen = self._as_one()

    def _as_one(self) -> tuple[Tensor, Tensor]:
        """All tables below one another, and where each begins."""
        weights = [cast(nn.Embedding, table).weight for table in self.tables]
        begin = torch.tensor([0, *map(len, weights[:-1])], device=weights[0].device).cumsum(0)
        return torch.cat(weights), begin


def _table(rows: int, embedding_dim: int) -> nn.Embedding:
    table = nn.Embedding(rows, embedding_dim)
    nn.init.normal_(table.weight, std=0.1)
    return table


class ItemTable(nn.Module):
    """(N, D) item vectors: an id embedding plus a linear map of the content, so that rare items borrow."""

    def __init__(self, sizes: Sizes, embedding_dim: int) -> None:
        super().__init__()
        self._frozen: Tensor | None = None
        self.ids = nn.Embedding(sizes.num_items, embedding_dim, padding_idx=0)
        self.from_content = nn.Linear(sizes.content_width, embedding_dim, bias=False) if sizes.content_width else None
        nn.init.normal_(self.ids.weight, std=0.05)
        if self.from_content is not None:
            nn.init.normal_(self.from_content.weight, std=0.05)

    def forward(self, content: Tensor) -> Tensor:
        if self._frozen is not None:
            return self._frozen
        vectors = self.ids.weight
        return vectors if self.from_content is None else vectors + self.from_content(content)

    def freeze(self, content: Tensor) -> None:
        """Keep the vectors, which no request changes, so that none waits for them."""
        self._frozen = self(content)
