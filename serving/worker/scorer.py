"""A loaded model that scores what it is asked. Knows no server, loads no pandas: this runs inside the worker.

Legend: B batch, N item rows, C trend channels, k list length.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch, drop_unknown, encode_values, make_batch
from features.trends import TrendSnapshot
from features.vocabulary import PAD
from serving.worker.request import Request
from serving.worker.users import Person, people_of
from training.models import artifact
from training.models.artifact import Artifact
from training.models.query import log_trends
from training.models.ranking import exclude, rank

ONE = np.zeros(1, dtype=np.int64)  # a snapshot is of one moment, whichever is asked for


class Scorer:
    """A model with its vocabulary and encoders.

    Args:
        loaded: a verified artifact.
        version: of the registry.
        folder: where the artifact lies.
    """

    def __init__(self, loaded: Artifact, version: str = "unregistered", folder: Path | None = None) -> None:
        self.artifact, self.version, self.folder = loaded, version, folder
        self.model, self.vocabulary = loaded.model, loaded.vocabulary
        self.manifest = loaded.manifest
        self._read: list[tuple[TrendSnapshot, np.ndarray, Tensor | None]] = []
        with torch.inference_mode():
            self.model.freeze()

    @classmethod
    def load(cls, folder: Path | str, version: str = "unregistered") -> Self:
        """Load and verify an artifact folder.

        Raises:
            ArtifactError: a file is missing, changed or does not fit.
        """
        return cls(artifact.load(folder), version, Path(folder))

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """(B, N) scores, seen items and padding at -inf."""
        return exclude(self.model.scores(batch), batch.seen)

    def rank(self, batch: Batch, truth: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `training.models.ranking.rank`; evaluation asks this, with the scores that requests get."""
        return rank(self.scores(batch), truth, k)

    def encode(
        self, requests: list[Request], people: list[Person] | None = None, trends: TrendSnapshot | None = None
    ) -> Batch:
        """Requests as the tensors that training saw.

        Args:
            people: whoever asks, one for each request; None takes what the requests state.
            trends: of the items; None takes those of the artifact.
        """
        config = self.artifact.config
        people = people_of(requests, config["repeats"], None) if people is None else people
        items, times, lengths = drop_unknown(
            self.vocabulary.indices([item for person in people for item in person.items]),
            np.array([moment for person in people for moment in person.times], dtype=np.int64),
            np.array([len(person.items) for person in people], dtype=np.int64),
        )
        trends_NC, logs = self.as_read(trends or self.artifact.trends)
        batch = make_batch(
            items,
            times,
            lengths,
            np.array([request.time_us for request in requests], dtype=np.int64),
            self._rows(
                [{**person.traits, **one.context} for one, person in zip(requests, people, strict=True)], "traits"
            ),
            self._rows([request.context for request in requests], "context"),
            trends_NC,
            np.zeros(len(requests), dtype=np.int64),
            self.model.max_history,
        )
        batch.log_trends = logs
        return batch

    def as_read(self, snapshot: TrendSnapshot) -> tuple[np.ndarray, Tensor | None]:
        """(1, N, C) trends, and for a network their (1, C, N) logarithms: kept, since every batch reads the same."""
        for known_one, trends, logs in self._read:
            if known_one is snapshot:
                return trends, logs
        trends = np.require(snapshot.at(ONE, self.model.channels), requirements=["C", "W"])
        logs = log_trends(torch.from_numpy(trends)) if self.model.learned and self.model.channels else None
        self._read = [*self._read[-1:], (snapshot, trends, logs)]  # the export's and the newest are in use
        return trends, logs

    def golden(self) -> list[dict]:
        """The requests recorded at export, each with the answer given then."""
        lines = (self.folder / "golden.jsonl").read_text().splitlines() if self.folder else []
        return [json.loads(line) for line in lines]

    def _rows(self, values: list[dict], kind: str) -> np.ndarray:
        encoders = self.artifact.config["encoders"][kind]
        rows = [encode_values(one, encoders) for one in values]
        return np.array(rows, dtype=np.int64).reshape(len(values), len(encoders))


NO_TRUTH = torch.zeros(2, 0, dtype=torch.int64)
UNRANKED = float("-inf")


@dataclass
class BatchScores:
    """What may be recommended to each request of a batch, and how much it is worth.

    Attributes:
        scores: (B, M), -inf for what may not be recommended.
        rows: (B, M) item rows, PAD first; None: column j is item row j.
        found: (B, M) bool: the items above which, in a shortlist, nothing can be missing; None: nothing is.
        enough: (B,) bool: whether the model had all that it wanted to see; None: it had.
    """

    scores: Tensor
    rows: Tensor | None = None
    found: Tensor | None = None
    enough: Tensor | None = None

    def of_items(self, row: int, values: Tensor) -> Tensor:
        """(M,) what (N,) values say of a request's columns."""
        return values if self.rows is None else values[self.rows[row]]

    def bar(self, row: int, items: np.ndarray) -> None:
        """Never recommend these item rows to a request."""
        if self.rows is None:
            self.scores[row, items] = UNRANKED
        elif len(items):
            self.bar_where(row, torch.isin(self.rows[row], torch.from_numpy(items)))

    def bar_where(self, row: int, barred: Tensor) -> None:
        """Never recommend these (M,) columns to a request."""
        self.scores[row, barred] = UNRANKED

    def holds(self, row: int, needed: int) -> bool:
        """Whether the best `needed` items are in here, and all of them if there are fewer."""
        if self.found is None or self.enough is None:
            return True
        left = self.found[row] & (self.scores[row] > UNRANKED)
        return bool(self.enough[row]) and int(left.sum()) >= needed

    def best(self, rows: list[int], k: int) -> tuple[Tensor, Tensor]:
        """Of the given requests the (n, k) item rows, PAD where nothing is left, and their scores; best first."""
        scores = self.scores if rows == list(range(len(self.scores))) else self.scores[rows]
        best, top = scores.topk(min(k + 1, scores.shape[1]), dim=1)
        if _tied(best.numpy()):
            top, _ = rank(scores, NO_TRUTH, k)
            best = scores.gather(1, top)
        top, best = top[:, :k], best[:, :k]
        if self.rows is not None:
            top = self.rows[rows].gather(1, top)
        return top.masked_fill(best == UNRANKED, PAD), best


def _tied(best: np.ndarray) -> bool:
    """Whether any of the (n, k) scores, best first, equals the next: then `rank` says which comes first."""
    return bool(((best[:, 1:] == best[:, :-1]) & (best[:, 1:] > UNRANKED)).any())
