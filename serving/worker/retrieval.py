"""From an index to shortlists that a model has scored. Worker side.

Legend: B batch, N item rows, M candidates, X extra, C trend channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from features.encode import Batch
from features.trends import TrendSnapshot
from features.vocabulary import PAD
from serving.worker.index import Index, extra, merged
from serving.worker.scored import Scored
from serving.worker.scorer import Scorer
from training.models.base import EXCLUDED
from training.models.factors import Factors
from training.models.rank import is_seen


class Retrieval:
    """Args:
    scorer: a loaded model that is searchable.
    index: over its items.
    always: (X,) item rows that are candidates of every request.
    """

    def __init__(self, scorer: Scorer, index: Index, always: Tensor) -> None:
        self.scorer, self.index, self.always = scorer, index, always
        self._extra: tuple[TrendSnapshot, Tensor] | None = None
        self.reaches = index.reaches

    def shortlist(self, batch: Batch, rows: list[int], trends: TrendSnapshot, reach: int) -> Scored:
        """The scored candidates of the given rows of a batch; the others get the extra ones alone.

        Shapes depend on the reach and the trends, never on who asks, so that no answer depends on its neighbours.
        """
        found = torch.full((len(batch), reach), PAD)
        more = self._more(trends)
        inside: list[Tensor] = []

        def search(factors: Factors) -> Tensor:
            found[rows] = self.index.find(factors.asked()[rows], reach)
            items, is_found = merged(found, more)
            inside.append(is_found)
            return items

        items, scores = self.scorer.model.shortlist(batch, search)
        barred = is_seen(items, batch.seen)
        enough = (inside[0] & ~barred).sum(dim=1) >= (self.scorer.model.retrieve or 0)
        return Scored(scores.masked_fill(barred, EXCLUDED), items, inside[0], enough)

    def _more(self, trends: TrendSnapshot) -> Tensor:
        """(X,) those of `always` and what trends by now."""
        if self._extra is None or self._extra[0] is not trends:
            now, exported = (self.scorer.as_read(one)[1] for one in (trends, self.scorer.artifact.trends))
            rising = self.always[:0] if now is None or exported is None else extra(now[0], exported[0])
            self._extra = trends, torch.cat([self.always, rising]).unique()
        return self._extra[1]
