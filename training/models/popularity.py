"""Popularity: how often an item was taken lately."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from config.validation import Count
from features.encode import Batch
from features.trends import ALL, window_channel
from training.models.base import Hyperparameters, MatrixModel, Sizes, register


class PopularityHyperparameters(Hyperparameters):
    name: Literal["popularity"]
    days: Count | None  # length of the trailing window; None counts everything


@register
class Popularity(MatrixModel[PopularityHyperparameters]):
    """Counts over the trailing `days` at the time of the request; equal counts, also zeros, by the all-time count."""

    name = "popularity"
    hyperparameters_type = PopularityHyperparameters
    personal = False

    def __init__(self, hyperparameters: PopularityHyperparameters, sizes: Sizes) -> None:
        super().__init__(hyperparameters, sizes)
        self.channels = (window_channel(hyperparameters.days), ALL)

    def fit(self, matrix, seed: int) -> None:
        """Nothing to fit: the counts are item trends."""

    def scores(self, batch: Batch) -> Tensor:
        recent, total = batch.trends[..., 0], batch.trends[..., 1]
        tie_breaker = total / (total.amax(dim=1, keepdim=True) + 1)
        return (recent + tie_breaker)[batch.moment]
