"""Find the items of a large catalog that may come first, without scoring all of them. Worker side.

Legend: B batch, N item rows, K found, X always candidates, M candidates, D vector width, E width in the index,
C trend channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from features.encode import Batch
from features.trends import TrendSnapshot
from features.vocabulary import PAD
from serving.worker.scorer import BatchScores, Scorer
from training.models.base import EXCLUDED, Factors
from training.models.ranking import is_seen

FILE, BASIS = "index.faiss", "index.safetensors"
TRENDING = 50  # per channel, items that trend and items that rose are candidates, whatever the index finds
SECOND_SEARCH = 8  # a second search asks for so many times the candidates of the first


class ItemIndex:
    """FAISS over [vector, bias, log trends as of the export] of every item, searched by inner product.

    Trends change after the export. So the index finds candidates, which the model then scores as of now, and
    `trending_items` adds what trends by now.

    Args:
        lists: a FAISS index of inverted lists; item row j has number j.
        basis: (D, E) rotation of queries; items were rotated by it when the lists were built.
        candidates: K of a first search.
        probes: lists that a search reads.
    """

    def __init__(self, lists, basis: Tensor, candidates: int, probes: int) -> None:
        self._lists, self._basis, self.probes = lists, basis, probes
        self.keep: tuple = ()  # keeps alive what `lists` refers to by address only
        total = lists.ntotal
        self.candidate_counts = sorted({min(candidates, total), min(SECOND_SEARCH * candidates, total)})

    @classmethod
    def load(cls, folder: Path | None, manifest: dict) -> ItemIndex | None:
        """The index of an artifact; None where it has none, and then FAISS is not loaded either."""
        about = manifest.get("index")
        if folder is None or not about or about["kind"] != "faiss":
            return None
        import faiss  # heavy, and only artifacts of large catalogs need it

        faiss.omp_set_num_threads(1)  # workers are scaled by count: their threads would compete for cores
        basis = load_file(folder / BASIS)["basis"]
        return cls(faiss.read_index(str(folder / FILE)), basis, about["candidates"], about["probes"])

    @property
    def num_lists(self) -> int:
        return self._lists.nlist

    def save(self, folder: Path) -> None:
        import faiss

        faiss.write_index(self._lists, str(folder / FILE))
        save_file({"basis": self._basis}, folder / BASIS)

    def search(self, queries: Tensor, count: int) -> Tensor:
        """(B, count) item rows of about the highest inner products with (B, D) queries; PAD where fewer are found."""
        self._lists.nprobe = self.probes
        rotated = queries @ self._basis
        # The last number is 0 in every item: here it sets how far apart lists count as near.
        rotated[:, -1] = rotated.norm(dim=1) / queries.shape[1] ** 0.5
        _, found = self._lists.search(rotated.contiguous().numpy(), count)
        return torch.from_numpy(found).clamp(min=PAD)  # FAISS returns -1 for none


@dataclass
class Retrieval:
    """Finds candidates through an index and has the model score them."""

    scorer: Scorer  # its model is searchable
    index: ItemIndex  # of its items
    always: Tensor  # (X,) item rows that are candidates of every request
    _with_trending: tuple[TrendSnapshot, Tensor] | None = None

    def shortlist(self, batch: Batch, rows: list[int], trends: TrendSnapshot, count: int) -> BatchScores:
        """The scored candidates of the given rows of a batch; other rows get only those that are always candidates.

        Shapes depend on the count and the trends, never on the requests, so that no response depends on what it is
        batched with.
        """
        found = torch.full((len(batch), count), PAD)
        always = self._always_candidates(trends)
        from_index: list[Tensor] = []

        def search(factors: Factors) -> Tensor:
            found[rows] = self.index.search(factors.query_vectors()[rows], count)
            items, is_found = merge_candidates(found, always)
            from_index.append(is_found)
            return items

        items, scores = self.scorer.model.shortlist(batch, search)
        seen = is_seen(items, batch.seen)
        is_complete = (from_index[0] & ~seen).sum(dim=1) >= (self.scorer.model.retrieve or 0)
        return BatchScores(scores.masked_fill(seen, EXCLUDED), items, from_index[0], is_complete)

    def _always_candidates(self, trends: TrendSnapshot) -> Tensor:
        """(X,) `always`, and what trends by now."""
        if self._with_trending is None or self._with_trending[0] is not trends:
            now, exported = (self.scorer.trend_inputs(one)[1] for one in (trends, self.scorer.artifact.trends))
            rising = self.always[:0] if now is None or exported is None else trending_items(now[0], exported[0])
            self._with_trending = trends, torch.cat([self.always, rising]).unique()
        return self._with_trending[1]


def trending_items(now: Tensor, exported: Tensor) -> Tensor:
    """(X,) item rows that trend, or rose most since the export, in any channel of (C, N) log trends.

    As candidates of every request they ensure that what is new and popular is not missed because the index is older.
    """
    most = min(TRENDING, now.shape[1] - 1)
    rows = [part[:, PAD + 1 :].topk(most, dim=1).indices + PAD + 1 for part in (now, now - exported)]
    return torch.cat(rows).unique()


def merge_candidates(found: Tensor, always: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M) item rows, ascending except for duplicates, which become PAD; (B, M) whether the index found it.

    Ascending, so that equal scores keep the vocabulary's order. Column 0 is PAD.

    Args:
        found: (B, K) from the index.
        always: (X,) of every request.
    """
    batch_size = len(found)
    padding = found.new_full((batch_size, 1), PAD)
    rows, order = torch.cat([found, always.expand(batch_size, -1), padding], dim=1).sort(dim=1, stable=True)
    is_duplicate = rows.diff(dim=1, prepend=padding) == 0
    rows = rows.masked_fill(is_duplicate, PAD)
    return rows, (order < found.shape[1]) & (rows != PAD)
