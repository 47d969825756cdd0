"""Several models in one: a sum of their scores, weighted by what the request tells.

Legend: B batch, N item rows, M candidates, K retrieved, P parts, Z circumstances.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from data.columns import MICROSECONDS
from features.encode import Batch
from features.vocabulary import PAD
from training.models.base import Factors, Model, Search, Sizes
from training.models.ranking import exclude

CIRCUMSTANCES = 4  # constant, time since the last event, length of the history, no history


class Hybrid(Model):
    """score = sum over the parts of weight(request) * score of the part; the weights are linear in `circumstances`.

    Models that err differently correct one another, and how far each is to be trusted depends on how long ago
    the user was last seen and how much is known of them (stacking: Wolpert 1992; weights linear in side
    information: Sill et al. 2009, "Feature-Weighted Linear Stacking"). The weights come from the validation
    period, which none of the parts was fitted on.

    With `retrieve`, the first part retrieves so many items and the sum ranks only these, as the second of two stages
    does; below them stands what was not retrieved, in the order of the first part.

    Args:
        params: `parts` maps a label to the recipe of that part; `retrieve` is a number of items or None.
    """

    name = "hybrid"
    learned = True
    weights: Tensor

    def __init__(self, params: dict, sizes: Sizes) -> None:
        super().__init__(params, sizes)
        from training.models.registry import build

        self.retrieve = params.get("retrieve")  # artifacts from before it existed lack it
        self.parts = nn.ModuleDict({label: build(recipe, sizes) for label, recipe in params["parts"].items()})
        self.register_buffer("weights", self.equal_weights())
        self.channels = tuple(dict.fromkeys(name for part in self.models() for name in part.channels))
        lengths = [part.max_history for part in self.models()]
        known = [length for length in lengths if length is not None]
        self.max_history = max(known) if len(known) == len(lengths) else None

    def models(self) -> list[Model]:
        """The parts, in the order of their labels in `params`."""
        return [cast(Model, part) for part in self.parts.values()]

    def equal_weights(self) -> Tensor:
        """(P, Z) the same share for each part, whatever the circumstances."""
        weights = torch.zeros(len(self.parts), CIRCUMSTANCES)
        weights[:, 0] = 1 / len(self.parts)
        return weights

    def set_weights(self, weights: list[list[float]]) -> None:
        """Take (P, Z) weights, as a recipe holds them."""
        self.weights.copy_(torch.tensor(weights))

    def part_scores(self, batch: Batch) -> Tensor:
        """(P, B, N) what each part says."""
        return torch.stack([part.scores(self._as_read_by(part, batch)) for part in self.models()])

    def _as_read_by(self, part: Model, batch: Batch) -> Batch:
        if part.channels == self.channels and part.max_history == self.max_history:
            return batch  # nothing to leave out: no copy of a large catalogue's trends
        columns = [self.channels.index(name) for name in part.channels]
        kept = batch.items.shape[1] if part.max_history is None else part.max_history
        return replace(
            batch,
            items=batch.items[:, -kept:],
            item_times=batch.item_times[:, -kept:],
            trends=batch.trends[:, :, columns],
            log_trends=None if batch.log_trends is None else batch.log_trends[:, columns],
        )

    def scores(self, batch: Batch) -> Tensor:
        if self.retrieve is not None:
            return self._in_two_stages(self._first.scores(self._as_read_by(self._first, batch)), None, batch)
        return torch.einsum("pbn,bp->bn", self.part_scores(batch), circumstances(batch) @ self.weights.T)

    def scores_of(self, batch: Batch, rows: Tensor) -> Tensor:
        if self.retrieve is not None:
            return super().scores_of(batch, rows)  # what is retrieved depends on the rest of the catalogue
        said = [part.scores_of(self._as_read_by(part, batch), rows) for part in self.models()]
        return torch.einsum("pbm,bp->bm", torch.stack(said), circumstances(batch) @ self.weights.T)

    @property
    def _first(self) -> Model:
        return self.models()[0]

    @property
    def searchable(self) -> bool:
        return self.retrieve is not None and self._first.searchable

    def factored(self, batch: Batch) -> tuple[Factors, Tensor]:
        return self._first.factored(self._as_read_by(self._first, batch))

    def shortlist(self, batch: Batch, search: Search) -> tuple[Tensor, Tensor]:
        rows, first = self._first.shortlist(self._as_read_by(self._first, batch), search)
        return rows, self._in_two_stages(first, rows, batch)

    def retrieved(self, first_BM: Tensor, batch: Batch, rows_BM: Tensor | None = None) -> Tensor:
        """(B, K) columns of what the first part retrieves of those that may be recommended, best first."""
        assert self.retrieve is not None
        return exclude(first_BM, batch.seen, rows_BM).topk(min(self.retrieve, first_BM.shape[1]), dim=1).indices

    def _in_two_stages(self, first_BM: Tensor, rows_BM: Tensor | None, batch: Batch) -> Tensor:
        """The sum for what the first part retrieves, all that the others score; its own scores, shifted below these,
        for the rest."""
        columns = self.retrieved(first_BM, batch, rows_BM)
        rows = columns if rows_BM is None else rows_BM.gather(1, columns)
        others = [part.scores_of(self._as_read_by(part, batch), rows) for part in self.models()[1:]]
        weights = circumstances(batch) @ self.weights.T
        summed = torch.einsum("pbk,bp->bk", torch.stack([first_BM.gather(1, columns), *others]), weights)
        highest = first_BM.gather(1, columns[:, :1])
        return (first_BM - highest + summed.amin(dim=1, keepdim=True) - 1).scatter(1, columns, summed)

    def freeze(self) -> None:
        for part in self.models():
            part.freeze()

    def answers_cold(self) -> bool:
        return any(part.answers_cold() for part in self.models())


def circumstances(batch: Batch) -> Tensor:
    """(B, Z) what is known of each request before any item is looked at; each about 0 to 1."""
    visible = batch.items[:, -1] != PAD
    since = torch.where(visible, batch.time - batch.item_times[:, -1], 0).clamp(min=0) / MICROSECONDS
    length = torch.bincount(batch.seen[0], minlength=len(batch)).float()
    return torch.stack(
        [
            torch.ones_like(length),
            torch.log2(1 + since.float()) / 25,  # 25 doublings of a second are a year
            torch.log2(1 + length) / 10,
            1 - visible.float(),
        ],
        dim=1,
    )
