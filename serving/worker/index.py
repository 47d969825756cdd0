"""Which items of a large catalogue may come first, found without scoring all of them. Worker side.

Legend: B batch, N item rows, K found, X extra, M candidates, D width of what is multiplied, E of what is held, C trend channels.
"""

from __future__ import annotations

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
TRENDING = (
    50  # of each channel that are candidates whatever the index says, and as many that rose most since the export
)


class Index:
    """FAISS over [vector, bias, log trends as of the export] of every item, searched by inner product.

    Trends move on. So what it finds are candidates, which the model scores as of now, and to which `extra` adds.

    Args:
        lists: a FAISS index of inverted lists; item row j has number j.
        basis: (D, E): questions are turned by it as the items were when the lists were made.
        candidates: K, of a first look; a second goes eight times as far.
        probes: lists that a search reads.
    """

    def __init__(self, lists, basis: Tensor, candidates: int, probes: int) -> None:
        self._lists, self._basis, self.probes = lists, basis, probes
        self.keep: tuple = ()  # whatever `lists` holds by address alone
        most = lists.ntotal
        self.reaches = sorted({min(candidates, most), min(8 * candidates, most)})

    @classmethod
    def load(cls, folder: Path | None, manifest: dict) -> Index | None:
        """That of an artifact; None where there is none, and then FAISS is not loaded either."""
        about = manifest.get("index") or {}
        if folder is None or about.get("kind") != "faiss":
            return None
        import faiss

        faiss.omp_set_num_threads(1)  # workers are scaled by count: their threads would fight for cores
        basis = load_file(folder / BASIS)["basis"]
        return cls(faiss.read_index(str(folder / FILE)), basis, about["candidates"], about["probes"])

    @property
    def num_lists(self) -> int:
        return self._lists.nlist

    @property
    def num_bytes(self) -> int:
        """Size of the lists, as written to a file."""
        import faiss

        return len(faiss.serialize_index(self._lists))

    def save(self, folder: Path) -> None:
        import faiss

        faiss.write_index(self._lists, str(folder / FILE))
        save_file({"basis": self._basis}, folder / BASIS)

    def find(self, asked: Tensor, reach: int) -> Tensor:
        """(B, reach) item rows of about the highest products with (B, D) questions; PAD where it finds no more."""
        self._lists.nprobe = self.probes
        turned = asked @ self._basis
        turned[:, -1] = turned.norm(dim=1) / asked.shape[1] ** 0.5  # 0 in every item: it weighs the reach of a list
        _, found = self._lists.search(turned.contiguous().numpy(), reach)
        return torch.from_numpy(found).clamp(min=PAD)  # FAISS says -1 for none


def extra(now: Tensor, exported: Tensor) -> Tensor:
    """(X,) item rows that trend, or rose most since the export, in any channel of (C, N) log trends.

    They are candidates of every request, so that what is new and hot is never missed because the index is older.
    """
    most = min(TRENDING, now.shape[1] - 1)
    rows = [part[:, PAD + 1 :].topk(most, dim=1).indices + PAD + 1 for part in (now, now - exported)]
    return torch.cat(rows).unique()


def merged(found: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M) item rows, ascending but for duplicates, which are PAD; (B, M) whether the index found it.

    Ascending, so that equal scores keep the vocabulary's order. Column 0 is PAD.

    Args:
        found: (B, K), what the index says.
        more: (X,), for everybody.
    """
    size = len(found)
    none = found.new_full((size, 1), PAD)
    rows, order = torch.cat([found, more.expand(size, -1), none], dim=1).sort(dim=1, stable=True)
    again = rows.diff(dim=1, prepend=none) == 0
    rows = rows.masked_fill(again, PAD)
    return rows, (order < found.shape[1]) & (rows != PAD)


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

    def shortlist(self, batch: Batch, rows: list[int], trends: TrendSnapshot, reach: int) -> BatchScores:
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
        return BatchScores(scores.masked_fill(barred, EXCLUDED), items, inside[0], enough)

    def _more(self, trends: TrendSnapshot) -> Tensor:
        """(X,) those of `always` and what trends by now."""
        if self._extra is None or self._extra[0] is not trends:
            now, exported = (self.scorer.as_read(one)[1] for one in (trends, self.scorer.artifact.trends))
            rising = self.always[:0] if now is None or exported is None else extra(now[0], exported[0])
            self._extra = trends, torch.cat([self.always, rising]).unique()
        return self._extra[1]
