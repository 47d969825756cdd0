"""Several models in one: a sum of their scores, weighted by what is known of the request.

Legend: B batch, N item rows, M candidates, K retrieved, P parts, Z meta-features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field, PlainValidator
from torch import Tensor, nn

from config.validation import Count
from data.columns import MICROSECONDS
from features.encode import Batch
from features.vocabulary import PAD
from training.models.base import AS_LIST, Factors, Hyperparameters, Model, Search, Sizes, build, parse, register
from training.models.ranking import exclude

NUM_META_FEATURES = 4  # constant, time since the last event, length of the history, no history


def _check_parts(value: Any) -> list[str] | dict[str, Hyperparameters]:
    if isinstance(value, Mapping) and value:
        return {label: parse(one) for label, one in value.items()}
    if isinstance(value, list) and len(value) >= 2 and all(isinstance(label, str) for label in value):
        return value
    raise ValueError(f"{value!r} is not a list of at least two labels of train.models")


class HybridHyperparameters(Hyperparameters):
    name: Literal["hybrid"]
    # Labels of train.models in params.yaml; for a fit and in what it stores, label -> hyperparameters.
    parts: Annotated[Any, PlainValidator(_check_parts)]
    retrieve: Count | None  # rank only so many items that the first part retrieves; None: the whole catalog
    # Pull of the weights towards equal shares; the value that is best on validation is kept.
    l2: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1), AS_LIST]


@register
class Hybrid(Model[HybridHyperparameters]):
    """score = sum over the parts of weight(request) * score of the part; the weights are linear in `meta_features`.

    Models that err differently correct one another. How far each can be trusted depends on how long ago the user was
    last seen and how much is known of them (stacking: Wolpert 1992; weights linear in side information: Sill et al.
    2009, "Feature-Weighted Linear Stacking"). The weights are fitted on the validation period, which no part has seen.

    With `retrieve`, the first part retrieves so many items and the sum ranks only these (two stages). Below them stand
    the other items, in the order of the first part.
    """

    name = "hybrid"
    hyperparameters_type = HybridHyperparameters
    learned = True
    weights: Tensor

    def __init__(self, hyperparameters: HybridHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        self.retrieve = hyperparameters.retrieve
        self.parts = nn.ModuleDict({label: build(part, sizes) for label, part in hyperparameters.parts.items()})
        self.register_buffer("weights", self.equal_weights())
        self.channels = tuple(dict.fromkeys(name for part in self.models() for name in part.channels))
        lengths = [part.max_history for part in self.models()]
        limits = [length for length in lengths if length is not None]
        self.max_history = max(limits) if len(limits) == len(lengths) else None

    def models(self) -> list[Model]:
        """The parts, in the order of their labels."""
        return [cast(Model, part) for part in self.parts.values()]

    def equal_weights(self) -> Tensor:
        """(P, Z) the same share for each part, whatever the request."""
        weights = torch.zeros(len(self.parts), NUM_META_FEATURES)
        weights[:, 0] = 1 / len(self.parts)
        return weights

    def set_weights(self, weights: list[list[float]]) -> None:
        """Take (P, Z) weights, in the form in which a fit stores them."""
        self.weights.copy_(torch.tensor(weights))

    def part_scores(self, batch: Batch) -> Tensor:
        """(P, B, N) scores of each part."""
        return torch.stack([part.scores(self._input_of(part, batch)) for part in self.models()])

    def _input_of(self, part: Model, batch: Batch) -> Batch:
        """The batch with only the channels and events that a part reads."""
        if part.channels == self.channels and part.max_history == self.max_history:
            return batch  # no copy of a large catalog's trends
        columns = [self.channels.index(name) for name in part.channels]
        length = batch.items.shape[1] if part.max_history is None else part.max_history
        return replace(
            batch,
            items=batch.items[:, -length:],
            item_times=batch.item_times[:, -length:],
            trends=batch.trends[:, :, columns],
            log_trends=None if batch.log_trends is None else batch.log_trends[:, columns],
        )

    def scores(self, batch: Batch) -> Tensor:
        if self.retrieve is not None:
            return self._rank_in_two_stages(self._first.scores(self._input_of(self._first, batch)), None, batch)
        return torch.einsum("pbn,bp->bn", self.part_scores(batch), meta_features(batch) @ self.weights.T)

    def scores_of(self, batch: Batch, rows: Tensor) -> Tensor:
        if self.retrieve is not None:
            return super().scores_of(batch, rows)  # what is retrieved depends on the rest of the catalog
        scores = torch.stack([part.scores_of(self._input_of(part, batch), rows) for part in self.models()])
        return torch.einsum("pbm,bp->bm", scores, meta_features(batch) @ self.weights.T)

    @property
    def _first(self) -> Model:
        return self.models()[0]

    @property
    def searchable(self) -> bool:
        return self.retrieve is not None and self._first.searchable

    def factored(self, batch: Batch) -> tuple[Factors, Tensor]:
        return self._first.factored(self._input_of(self._first, batch))

    def shortlist(self, batch: Batch, search: Search) -> tuple[Tensor, Tensor]:
        rows, first = self._first.shortlist(self._input_of(self._first, batch), search)
        return rows, self._rank_in_two_stages(first, rows, batch)

    def retrieved(self, first_BM: Tensor, batch: Batch, rows_BM: Tensor | None = None) -> Tensor:
        """(B, K) columns of the allowed items that the first part retrieves, best first."""
        assert self.retrieve is not None
        return exclude(first_BM, batch.seen, rows_BM).topk(min(self.retrieve, first_BM.shape[1]), dim=1).indices

    def _rank_in_two_stages(self, first_BM: Tensor, rows_BM: Tensor | None, batch: Batch) -> Tensor:
        """The weighted sum for the items that the first part retrieves, which are all that the other parts score; for
        the rest the first part's own scores, shifted below these."""
        columns = self.retrieved(first_BM, batch, rows_BM)
        rows = columns if rows_BM is None else rows_BM.gather(1, columns)
        others = [part.scores_of(self._input_of(part, batch), rows) for part in self.models()[1:]]
        weights = meta_features(batch) @ self.weights.T
        summed = torch.einsum("pbk,bp->bk", torch.stack([first_BM.gather(1, columns), *others]), weights)
        highest = first_BM.gather(1, columns[:, :1])
        return (first_BM - highest + summed.amin(dim=1, keepdim=True) - 1).scatter(1, columns, summed)

    def freeze(self) -> None:
        for part in self.models():
            part.freeze()

    def personalizes_cold_users(self) -> bool:
        return any(part.personalizes_cold_users() for part in self.models())


def meta_features(batch: Batch) -> Tensor:
    """(B, Z) what is known of each request before any item is scored; each about 0 to 1."""
    has_history = batch.items[:, -1] != PAD
    since = torch.where(has_history, batch.time - batch.item_times[:, -1], 0).clamp(min=0) / MICROSECONDS
    length = torch.bincount(batch.seen[0], minlength=len(batch)).float()
    return torch.stack(
        [
            torch.ones_like(length),
            torch.log2(1 + since.float()) / 25,  # 25 doublings of a second are a year
            torch.log2(1 + length) / 10,
            1 - has_history.float(),
        ],
        dim=1,
    )
