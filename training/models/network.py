"""The contract of every network: its hyperparameters, what the trainer calls, and how it answers requests.

Legend: B batch, Q queries, P targets, N item rows, M candidates, V content width, D embedding width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from config.validation import Count, Share
from features.encode import Batch
from training.models.base import Factors, Hyperparameters, Model, ModelError, Search, Sizes
from training.models.layers import CausalBlock, ContextEncoder, ItemTable, add_trends, pair_trends
from training.models.query import Query, log_trends

MAX_GRAPH_REQUESTS = 16  # in a batch, up to which Python takes longer than the arithmetic


class NetworkHyperparameters(Hyperparameters):
    """What every network has."""

    channels: list[str]  # item trends that it weighs, of those that featurize.trends gives
    max_history: Count  # the newest events that it reads
    embedding_dim: Count
    num_heads: Count  # must divide embedding_dim
    dropout: Annotated[float, Field(ge=0, lt=1)]
    trend_step_hours: Count  # between two moments whose trends training reads; serving reads live ones
    horizon_samples: Annotated[int, Field(ge=0)]  # horizon cases per user and epoch, in addition to the next_item cases
    horizon_half_life_days: Annotated[float, Field(gt=0)] | None  # older days are drawn less often; None: all alike
    horizon_weight: Annotated[float, Field(ge=0, lt=1)]  # share of the loss that horizon cases have
    batch_size: Count  # events
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Count
    ema_decay: Share  # of the moving average of the weights, per step
    max_epochs: Count
    max_steps: Count  # whichever comes first
    patience: Count  # epochs without a better validation score
    loss: str


NetworkHyperparametersT = TypeVar("NetworkHyperparametersT", bound=NetworkHyperparameters)


class Network(Model[NetworkHyperparametersT]):
    """A model that is trained by gradient. It knows no user ids: a user is a history, traits and the request's context.

    The item features (N, V) are a buffer, so they are stored with the weights; `set_content` fills it before training.
    """

    learned = True
    is_product: ClassVar[bool] = False  # whether scores are products, as `factors` gives them
    content: Tensor

    def __init__(self, hyperparameters: NetworkHyperparametersT, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        self.graphs: dict[str, Graph] = {}  # by the name of the recorded method
        self.max_history: int = hyperparameters.max_history
        self.channels = tuple(hyperparameters.channels)
        if absent := [channel for channel in self.channels if channel not in sizes.channels]:
            raise ModelError(
                f"{self.name}: channels name {', '.join(absent)}; featurize.trends gives {', '.join(sizes.channels)}"
            )
        embedding_dim, num_heads = hyperparameters.embedding_dim, hyperparameters.num_heads
        if embedding_dim % num_heads:
            raise ModelError(
                f"{self.name}: embedding_dim = {embedding_dim} is not a multiple of num_heads = {num_heads}"
            )
        self.register_buffer("content", torch.zeros(sizes.num_items, sizes.content_width))

    def set_content(self, item_features: np.ndarray) -> None:
        """Take the (N, V) item features."""
        self.content.copy_(torch.from_numpy(item_features))

    # What the trainer calls

    def score_all(self, query: Query) -> Tensor:
        """(Q, N) scores of the whole catalog; column PAD means nothing."""
        user, item, bias, weights = self.factors(query)
        return add_trends(torch.addmm(bias, user, item.T), weights, query.trends, query.moment)

    def factors(self, query: Query) -> Factors:
        """The scores of the whole catalog as products, where `is_product`; the loss `full_softmax` needs them."""
        raise NotImplementedError

    def score_shared(self, query: Query, candidates: Tensor) -> Tensor:
        """(Q, M) scores of the same (M,) candidates for every query; the loss `in_batch` needs them."""
        raise NotImplementedError

    def score_pairs(self, query: Query, rows: Tensor, candidates: Tensor) -> Tensor:
        """(P, M) scores of the (P, M) candidates of the queries in (P,) rows; losses over negatives need them."""
        return _score_pairs(self.factors(query), query.trends, query.moment, rows, candidates)

    # How it answers requests

    def scores(self, batch: Batch) -> Tensor:
        return self._run(self.score_all, batch)

    def scores_of(self, batch: Batch, rows: Tensor) -> Tensor:
        return self.score_pairs(self.query_of(batch), torch.arange(len(batch), device=rows.device), rows)

    @property
    def searchable(self) -> bool:
        return self.is_product

    def factored(self, batch: Batch) -> tuple[Factors, Tensor]:
        trends = log_trends(batch.trends) if batch.log_trends is None else batch.log_trends
        return Factors(*self._run(self.factors, batch)), trends

    def shortlist(self, batch: Batch, search: Search) -> tuple[Tensor, Tensor]:
        factors, trends = self.factored(batch)
        rows = search(factors)
        queries = torch.arange(len(batch), device=rows.device)
        return rows, _score_pairs(factors, trends, batch.moment, queries, rows)

    def personalizes_cold_users(self) -> bool:
        return bool(self.sizes.trait_sizes)

    def freeze(self) -> None:
        methods = [self.score_all, *([self.factors] if self.is_product else [])]
        self.graphs = {method.__name__: Graph(self, method) for method in methods}
        for module in self.modules():
            if isinstance(module, ItemTable):
                module.freeze(self.content)
            elif isinstance(module, ContextEncoder | CausalBlock):
                module.freeze()

    def query_of(self, batch: Batch) -> Query:
        """One query per request."""
        return Query.of(self._pad(batch))

    def _run(self, method: Callable[[Query], Any], batch: Batch) -> Any:
        """What a method gives for a batch; by its recorded graph once frozen, where the batch is small."""
        graph = self.graphs.get(method.__name__)
        if graph is None or batch.log_trends is None or len(batch) > MAX_GRAPH_REQUESTS:
            return method(self.query_of(batch))
        padded = self._pad(batch)  # before the graph, or each length of history would have a record of its own
        return graph.run(*(getattr(padded, part.name) for part in fields(Batch)))

    def _pad(self, batch: Batch) -> Batch:
        """The batch with histories `max_history` wide, however short they are.

        A matrix product of another shape may sum in another order. An answer would then depend on the batch it is in.
        """
        missing = self.max_history - batch.items.shape[1]
        if not missing:
            return batch
        items, times = (functional.pad(part, (missing, 0)) for part in (batch.items, batch.item_times))
        return replace(batch, items=items, item_times=times)


def _score_pairs(factors: Factors, trends: Tensor, moment: Tensor, rows: Tensor, candidates: Tensor) -> Tensor:
    """(P, M) scores of the (P, M) candidates of the queries in (P,) rows."""
    user, item, bias, weights = factors
    scores = torch.einsum("pmd,pd->pm", functional.embedding(candidates, item), user[rows])
    return scores + bias[candidates] + pair_trends(weights[rows], trends, moment[rows], candidates)


class Graph(nn.Module):
    """A method of a network, recorded once per shape of a Batch's first tensor, and run from the record from then on.

    A small batch takes longer in Python than in arithmetic, and a record runs without Python. It contains every branch
    as it was taken: the method may branch on shapes, never on values. Results are those of the method to the bit.
    """

    def __init__(self, model: Network, method: Callable[[Query], Any]) -> None:
        super().__init__()
        self.model, self.method = model, method  # in a module: a record may hold only weights of its own submodules
        self.records: dict[torch.Size, Callable[..., Any]] = {}

    def forward(self, *tensors: Tensor) -> Any:
        return self.method(self.model.query_of(Batch(*tensors)))

    def run(self, *tensors: Tensor) -> Any:
        """What `forward` returns."""
        shape = tensors[0].shape
        if shape in self.records:
            return self.records[shape](*tensors)
        result = self(*tensors)  # unrecorded first: caches that it fills must not become part of the record
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that tracing is deprecated, and about branches on shapes
            self.records[shape] = torch.jit.trace(self, tensors, check_trace=False)
        return result
