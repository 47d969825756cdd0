"""Popularity: how often an item was taken lately."""

from __future__ import annotations

from torch import Tensor

from features.encode import Batch
from features.trends import ALL, window
from training.models.base import MatrixModel, Sizes


class Popularity(MatrixModel):
    """Counts over the trailing `days`, as of the request; equal counts, zero included, by the all-time count."""

    name = "popularity"
    personal = False

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        self.channels = (window(params["days"]), ALL)

    def fit(self, matrix, seed: int) -> None:
        """Nothing to fit: the counts are item trends."""

    def scores(self, batch: Batch) -> Tensor:
        recent, total = batch.trends[..., 0], batch.trends[..., 1]
        ever = total / (total.amax(dim=1, keepdim=True) + 1)
        return (recent + ever)[batch.moment]
