"""Several models in one: a sum of their scores, weighted by what the request tells.

Legend: B batch, N item rows, P parts, Z circumstances.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from data.columns import MICROSECONDS
from features.encode import Batch
from features.vocabulary import PAD
from training.models.base import Model, Sizes
from training.models.rank import exclude

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
        from training.models.build import build  # it lists this class too

        self.retrieve: int | None = params.get("retrieve")  # artifacts from before it existed lack it
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
        columns = [self.channels.index(name) for name in part.channels]
        kept = batch.items.shape[1] if part.max_history is None else part.max_history
        return replace(
            batch,
            items=batch.items[:, -kept:],
            item_times=batch.item_times[:, -kept:],
            trends=batch.trends[:, :, columns],
        )

    def scores(self, batch: Batch) -> Tensor:
        weights = circumstances(batch) @ self.weights.T
        parts = self.part_scores(batch)
        blended = torch.einsum("pbn,bp->bn", parts, weights)
        return blended if self.retrieve is None else self._below_the_retrieved(blended, parts[0], batch)

    def retrieved(self, first_BN: Tensor, batch: Batch) -> Tensor:
        """(B, K) item rows that the first part retrieves of those that may be recommended, best first."""
        assert self.retrieve is not None
        return exclude(first_BN, batch.seen).topk(min(self.retrieve, first_BN.shape[1]), dim=1).indices

    def _below_the_retrieved(self, blended: Tensor, first_BN: Tensor, batch: Batch) -> Tensor:
        """`blended` of the retrieved items; the first part's scores, shifted below these, of all others."""
        rows = self.retrieved(first_BN, batch)
        ranked = blended.gather(1, rows)
        highest = first_BN.amax(dim=1, keepdim=True)
        return (first_BN - highest + ranked.amin(dim=1, keepdim=True) - 1).scatter(1, rows, ranked)

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
