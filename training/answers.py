"""What the parts of a hybrid say of the cases of the validation period: all that its weights are found from.

Legend: P parts, Z circumstances, n cases, M candidates, N item rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from features.encode import Batch
from features.sequences import Cases, batches
from features.store import Features
from features.vocabulary import PAD
from training import validate
from training.losses import MASKED
from training.models.hybrid import Hybrid, circumstances
from training.models.rank import exclude
from training.validate import HEADLINE_K

CANDIDATES = 200  # best of each part: what lies below them cannot reach the head of a list


@dataclass
class Answers:
    """What the parts say of the candidates of each case."""

    scores: Tensor  # (P, n, M)
    about: Tensor  # (n, Z) circumstances
    true: Tensor  # (n, M) 1 or 0
    absent: Tensor  # (n, M) bool: stands for nothing
    ideal: Tensor  # (n,) the best DCG@10 that a ranking of the catalogue could have

    def take(self, rows: np.ndarray) -> Answers:
        return Answers(self.scores[:, rows], *(part[rows] for part in (self.about, self.true, self.absent, self.ideal)))

    def double(self) -> Answers:
        """The same in float64."""
        return Answers(self.scores.double(), self.about.double(), self.true.double(), self.absent, self.ideal)

    def blended(self, weights: Tensor) -> Tensor:
        """(n, M) weighted sums of the scores."""
        summed = torch.einsum("pnm,np->nm", self.scores, self.about @ weights.T)
        return summed.masked_fill(self.absent, MASKED)

    def ndcg(self, weights: Tensor) -> Tensor:
        """(n,) NDCG@10 of the candidates' ranking."""
        head = self.blended(weights).topk(min(HEADLINE_K, self.true.shape[1]), dim=1).indices
        discount = 1 / torch.log2(torch.arange(2, head.shape[1] + 2))
        return (self.true.gather(1, head) * discount).sum(dim=1) / self.ideal

    @torch.no_grad()
    def loss(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, over the cases with a true item among the candidates, of the mean cross-entropy of those.

        Returns:
            The loss, its gradient (P, Z) and its Hessian (P, Z, P, Z) at these (P, Z) weights.
        """
        scores_nPM = self.scores.transpose(0, 1)
        log_share = torch.log_softmax(self.blended(weights), dim=1)
        share, found = log_share.exp(), self.true.sum(dim=1)
        worth = (found > 0) / (found > 0).sum().clamp(min=1)  # (n,) of each case
        true = self.true / found.clamp(min=1)[:, None]
        expected, taken = (torch.einsum("npm,nm->np", scores_nPM, one) for one in (share, true))
        spread = (scores_nPM * share[:, None]) @ scores_nPM.transpose(1, 2) - expected[:, :, None] * expected[:, None]
        return (
            -(worth[:, None] * true * log_share).sum(),
            torch.einsum("np,nz,n->pz", expected - taken, self.about, worth.to(self.about)),
            torch.einsum("npq,nz,ny,n->pzqy", spread, self.about, self.about, worth.to(self.about)),
        )

    def spread(self) -> Tensor:
        """(P,) how far the scores of each part lie apart within a case: the root of the mean variance."""
        inside = (~self.absent).to(self.scores)
        mean = (self.scores * inside).sum(dim=2, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(min=1)
        return (((self.scores - mean) ** 2 * inside).sum(dim=(1, 2)) / inside.sum().clamp(min=1)).sqrt()


@torch.no_grad()
def gather(model: Hybrid, features: Features, every: Cases, size: int) -> Answers:
    """Each part's scores of the candidates: the first `CANDIDATES` of every part, or what the first one retrieves.

    True items that no part has among its first count for nothing. Added, they would be the only candidates with
    low scores, and the likelihood would turn the scores over to please them.
    """
    trends = features.trend_log()
    at = validate.moments(every, features.description["refresh_minutes"])
    found: list[tuple[np.ndarray, Answers]] = []
    for rows, batch in batches(features.log, every, trends, model.channels, at, size, model.max_history):
        scores = model.part_scores(batch)
        pairs = validate.truth_pairs(every, rows)
        true = torch.zeros(scores.shape[1:], dtype=torch.bool).index_put_((pairs[0], pairs[1]), torch.tensor(True))
        wanted = torch.zeros_like(true)
        for rows_BK in _candidates(model, scores, batch):
            wanted.scatter_(1, rows_BK, True)
        wanted[batch.seen[0], batch.seen[1]] = False
        wanted[:, PAD] = False
        order = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, : int(wanted.sum(dim=1).max())]
        true &= wanted
        picked = scores.gather(2, order.expand(len(scores), -1, -1))
        sizes = np.diff(every.truth_offsets)[rows]
        ideal = np.cumsum(1 / np.log2(np.arange(2, HEADLINE_K + 2)))[np.clip(sizes, 1, HEADLINE_K) - 1]
        shown = Answers(
            picked, circumstances(batch), true.gather(1, order).float(), ~wanted.gather(1, order),
            torch.from_numpy(ideal).float(),
        )  # fmt: skip
        found.append((rows, shown))
    return _joined(found)


def _candidates(model: Hybrid, scores_PBN: Tensor, batch: Batch) -> list[Tensor]:
    """(B, K) item rows, one tensor for each part that brings candidates."""
    if model.retrieve is not None:
        return [model.retrieved(scores_PBN[0], batch)]
    most = min(CANDIDATES, scores_PBN.shape[2] - 1)
    return [exclude(one, batch.seen).topk(most, dim=1).indices for one in scores_PBN]


def _joined(found: list[tuple[np.ndarray, Answers]]) -> Answers:
    """The batches as one, padded to the widest, in the order of the cases."""
    widest = max(one.scores.shape[2] for _, one in found)
    back = np.argsort(np.concatenate([rows for rows, _ in found]))

    def joined(name: str, dim: int, value: float) -> Tensor:
        parts = [getattr(one, name) for _, one in found]
        return torch.cat([functional.pad(part, (0, widest - part.shape[-1]), value=value) for part in parts], dim=dim)

    about, ideal = (torch.cat([getattr(one, name) for _, one in found]) for name in ("about", "ideal"))
    whole = Answers(joined("scores", 1, 0), about, joined("true", 0, 0), joined("absent", 0, True), ideal)
    return whole.take(back)
